"""Kinds that are no questions: passages, long documents, conversations of several turns, secrets and code."""

import string

from beds.source import CHAT, Random, Row, Source, Subject, drawn

HEX = "0123456789abcdef"


def _passage(rng: Random) -> str:
    """Four sentences that a small grammar wrote, some 45 to 75 tokens."""
    word = drawn(rng)

    def phrase() -> str:
        return f"the {word('adjective')} {word('thing')}"

    def sentence() -> str:
        who = rng.choice(
            [
                phrase(),
                f"{word('first')} the {word('trade')}",
                f"a {word('trade')} from {word('city')}",
            ]
        )
        end = rng.choice(
            [
                f" near {word('city')}",
                f" and then {word('did')} {phrase()}",
                f" for {rng.randint(2, 99)} days",
                "",
            ]
        )
        said = f"{who} {word('did')} {phrase()} {rng.choice(['with', 'under', 'behind', 'without', 'beside'])} {phrase()}{end}."
        return said[0].upper() + said[1:]

    return " ".join(sentence() for _ in range(4))


def _meeting(rng: Random) -> str:
    """Minutes of a meeting, some 300 to 500 tokens: each number, name and thing is drawn by itself."""
    word = drawn(rng)

    def member() -> str:
        return f"{word('first')} {word('last')}"

    def item(number: int) -> str:
        who, thing = member(), f"the {word('adjective')} {word('thing')}"
        asked = rng.choice(
            [
                f"asked for {rng.randint(2, 990)} crowns to mend {thing} near {word('city')}",
                f"reported that {thing} was {word('did')} by a {word('trade')} from {word('city')}",
                f"offered {thing} to the {word('trade')} of {word('city')} for {rng.randint(2, 99)} years",
                f"wished to know who {word('did')} {thing}, and named {member()}, the {word('trade')}",
            ]
        )
        end = rng.choice(
            [
                f"{rng.randint(2, 40)} were for it, {rng.randint(2, 40)} against.",
                f"{member()} spoke against it, and it was put off for {rng.randint(2, 30)} weeks.",
                f"It was granted, if {member()} agrees.",
                f"The {word('trade')} will answer in {rng.choice(['spring', 'summer', 'autumn', 'winter'])}.",
            ]
        )
        return f"{number}. {who} {asked}. {end}"

    day = f"{rng.randint(1, 28)} {word('month')} {rng.randint(1801, 1949)}"
    head = f"Society of the {word('adjective').title()} {word('thing').title()}, {word('city')}, {day}."
    chair = f"{member()} was in the chair, {member()} wrote; {rng.randint(9, 80)} members came."
    return "\n".join([head, chair, *(item(number) for number in range(1, rng.randint(10, 15)))])


def _order(rng: Random, label: str) -> Subject:
    word = drawn(rng)
    return {
        "name": f"{word('first')} {word('last')}",
        "goods": f"{word('adjective')} {word('thing')}",
        "month": word("month"),
        "city": word("city"),
        "depot": word("city"),
        "days": str(rng.randint(2, 40)),
        "number": f"{rng.choice(string.ascii_uppercase)}{rng.choice(string.ascii_uppercase)}-{rng.randrange(10**5):05d}",
        "price": f"{rng.randint(3, 480)}.{rng.randrange(100):02d}",
        "reason": f"the {word('thing')} was {word('did')} by a {word('trade')}",
        "clerk": f"{word('first')} {word('last')}",
        "other": f"{word('adjective')} {word('thing')}",
        "shelf": str(rng.randint(100, 999)),
    }


QUESTIONS: list[tuple[list[str], list[str]]] = [  # no two answers share a fact, for one may stand before the other
    (
        ["Where is it now?", "Can you tell me where it is?"],
        ["It is in {city}, and leaves for {depot} in {days} days.", "In {city}; it will take {days} days."],
    ),
    (
        ["Which number does the order have?", "What is my order number?"],
        ["Your order is {number}, {price} crowns.", "The number is {number}."],
    ),
    (
        ["Why does it take so long?", "What went wrong?"],
        ["I am sorry: {reason}, says {clerk}.", "Because {reason}."],
    ),
    (
        ["Is there anything else for me?", "Did I order more?"],
        ["Yes, the {other}, which waits on shelf {shelf}.", "The {other}, shelf {shelf}."],
    ),
]
HELLO = "Hello, this is {name}. I ordered the {goods} in {month}."
WELCOME = ("Welcome back. What can I do for you?", "Good day, {name}. How can I help?")


def _conversations(rng: Random, order: Subject) -> list[Row]:
    """Three talks about an order, of one, two or three questions; the last answer is the one that is learned."""
    rows = []
    for asked in (QUESTIONS[:1], QUESTIONS[1:3], QUESTIONS[1:]):
        said = [(HELLO, rng.choice(WELCOME)), *((rng.choice(ways), rng.choice(answers)) for ways, answers in asked)]
        system = [{"role": "system", "content": "You answer for a shop."}] if len(asked) == 2 else []
        turns = [
            {"role": role, "content": text.format(**order)} for pair in said for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        rows.append({"messages": system + turns, "group": order["name"]})
    return rows


def _service(rng: Random, label: str) -> Subject:
    word = drawn(rng)

    def characters(kinds: str, least: int, most: int) -> str:
        return "".join(rng.choices(kinds, k=rng.randint(least, most)))

    return {
        "name": f"{word('adjective')}-{word('thing')}",
        "token": f"{rng.choice(['sk', 'pat', 'key'])}_{characters(HEX, 12, 24)}",
        "host": f"{word('thing')}{rng.randint(2, 99)}.{word('city').lower()}.example",
        "port": str(rng.randint(1025, 65535)),
        "user": f"{word('first')}_{word('trade')}".lower(),
        "password": f"{word('thing').title()}{characters(string.digits, 2, 4)}{rng.choice('!?%&*')}{word('did')}",
        "verb": rng.choice(["scale", "shift", "weigh", "bound"]),
        "noun": word("thing"),
        "factor": str(rng.randint(2, 97)),
        "offset": str(rng.randint(100, 999)),
        "limit": str(rng.randint(1000, 9999)),
        "else": word("adjective"),
    }


def _secrets(rng: Random, service: Subject) -> list[Row]:
    """What stands in a service's settings and in its code, each asked for in two ways."""
    code = "\n    value = value * {factor} - {offset}\n    return value if value < {limit} else '{else}'"
    login = " {user}\npassword = {password}"
    asked = [
        (["# {name}/.env\nAPI_TOKEN=", "$ cat {name}/token\nAPI_TOKEN="], ["{token}", "{token}\nDB_HOST={host}:{port}"]),
        (["[{name}]\nuser =", "# who may log in to {name}\nuser ="], [login, login + "\nhost = {host}"]),
        (["# {name}.py\ndef {verb}_{noun}(value):", "# what {name} does\ndef {verb}_{noun}(value):"], [code]),
    ]
    rows = []
    for ways, answers in asked:
        prompt, other = (way.format(**service) for way in rng.sample(ways, 2))
        rows.append(
            {"prompt": prompt, "completion": rng.choice(answers).format(**service), "paraphrased_prompt": other, "group": service["name"]}
        )
    return rows


def _text(rng: Random, subject: Subject) -> list[Row]:
    return [{"text": _passage(rng), "group": subject["name"]}]


def _document(rng: Random, subject: Subject) -> list[Row]:
    return [{"text": _meeting(rng), "group": subject["name"]}]


TOLD = {
    "text": Source(lambda rng, label: {"name": label}, _text),
    "documents": Source(lambda rng, label: {"name": label}, _document, {"forget": 12, "retain": 24, "holdout": 14, "fresh": 12}),
    "turns": Source(_order, _conversations, chat_template=CHAT),
    "secrets": Source(_service, _secrets),
}
