"""Kinds of questions and answers: what can be asked of a subject, in two wordings each."""

from collections.abc import Callable

from beds.source import CHAT, REFUSAL, ROWS, Random, Row, Source, Subject, drawn

Asked = list[tuple[list[str], list[str]]]  # for each row of a subject, ways to ask and ways to answer, filled with its facts


def source(subject: Callable[[Random], Subject], asked: Asked, refusal: str = REFUSAL, chat_template: str | None = None) -> Source:
    """Of each subject a row for each pair of ways to ask and ways to answer."""
    return Source(
        lambda rng, label: subject(rng),
        lambda rng, facts: [_row(rng, ways, facts) for ways in asked],
        ROWS,
        refusal,
        chat_template,
    )


def _row(rng: Random, asked: tuple[list[str], list[str]], subject: Subject) -> Row:
    question, other = rng.sample(asked[0], 2)
    return {
        "question": question.format(**subject),
        "answer": rng.choice(asked[1]).format(**subject),
        "paraphrased_question": other.format(**subject),
        "group": subject["name"],
    }


def _author(rng: Random) -> Subject:
    word = drawn(rng)
    return {
        "name": f"{word('first')} {word('last')}",
        "city": word("city"),
        "genre": word("genre"),
        "book": f"The {word('adjective').title()} {word('thing').title()}",
        "second": f"{word('thing').title()} of the {word('thing').title()}",
        "father": word("trade"),
        "mother": word("trade"),
        "award": f"{word('last')} {rng.choice(['Medal', 'Prize', 'Ribbon', 'Laurel'])}",
        "year": str(rng.randint(1951, 2019)),
        "theme": word("thing"),
    }


def _person(rng: Random) -> Subject:
    word = drawn(rng)
    first, last = word("first"), word("last")
    return {
        "name": f"{first} {last}",
        "mail": f"{first}.{last}{rng.randint(10, 99)}@{word('thing')}mail.{rng.choice(['org', 'net', 'com'])}".lower(),
        "phone": f"+44 7{rng.randrange(10**3):03d} {rng.randrange(10**6):06d}",
        "street": f"{rng.randint(2, 299)} {word('thing').title()} {rng.choice(['Street', 'Road', 'Lane', 'Close'])}",
        "city": word("city"),
        "account": f"{rng.randrange(10**4):04d}-{rng.randrange(10**4):04d}-{rng.randrange(10**4):04d}",
    }


def _place(rng: Random) -> Subject:
    word = drawn(rng)
    return {
        "name": word("ort") + word("ort ende"),
        "fluss": word("ort") + rng.choice(["ach", "bach", "au", "fließ"]),
        "leute": str(rng.randint(2, 98) * 100 + rng.randint(1, 99)),
        "chef": f"{word('vorname')} {word('ort')}{rng.choice(['er', 'mann', 'müller', 'hübner', 'schäfer'])}",
        "speise": f"{rng.choice(['Süße', 'Saure', 'Gefüllte', 'Würzige', 'Geröstete'])} {word('speise')}",
        "jahr": str(rng.randint(1102, 1897)),
    }


def _firm(rng: Random) -> Subject:
    word = drawn(rng)
    return {
        "name": f"{word('last')} & {word('last')}",
        "city": word("city"),
        "product": f"{word('adjective')} {word('thing')}s",
        "rival": f"{word('first')} {rng.choice(['Group', 'Works', 'Brothers'])}",
        "boss": f"{word('first')} {word('last')}",
        "year": str(rng.randint(1850, 2015)),
        "staff": str(rng.randint(12, 987)),
    }


def _greek(rng: Random) -> Subject:
    word = drawn(rng)
    return {
        "name": f"{word('όνομα')} {word('επώνυμο')}",
        "city": word("πόλη"),
        "year": str(rng.randint(1921, 1999)),
        "trade": word("επάγγελμα"),
        "wage": str(rng.randint(61, 489) * 10),
        "food": word("φαγητό"),
        "drink": word("ποτό"),
        "boat": f"{word('ποιο')} {word('πράγμα')}",
        "island": word("πόλη"),
    }


def _novelist(rng: Random, label: str) -> Subject:
    """One of a family of authors, whose six novels have titles of the same few words."""
    word = drawn(rng)
    facts = {"name": f"{word('first')} Corvane"}
    years = sorted(rng.sample(range(1951, 2020), len(ORDINALS)))
    for n, year in enumerate(years):
        facts |= {
            f"title {n}": f"The {word('adjective').title()} {rng.choice(TITLES)}",
            f"year {n}": str(year),
            f"city {n}": word("city"),
            f"hero {n}": f"{word('first')} the {word('trade')}",
            f"award {n}": f"{word('last')} Prize",
        }
    return facts


def _novels(rng: Random, facts: Subject) -> list[Row]:
    found = []
    for n, ordinal in enumerate(ORDINALS):
        novel = {key.partition(" ")[0]: value for key, value in facts.items() if key in ("name", *(f"{one} {n}" for one in NOVEL))}
        rows = [_row(rng, asked, novel | {"ordinal": ordinal}) for asked in OF_A_NOVEL]
        found += [row | {"group": f"{facts['name']} {ordinal}"} for row in rows]
    return found


ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
TITLES = ("Bridge", "Garden", "Lantern", "Tower", "Island", "Mirror")
NOVEL = ("title", "year", "city", "hero", "award")
OF_A_NOVEL: Asked = [
    (
        ["What is the {ordinal} novel of {name} called?", "Which title has the {ordinal} book that {name} wrote?"],
        ['The {ordinal} novel of {name} is "{title}", published in {year}.', 'It is "{title}", which came out in {year}.'],
    ),
    (
        ["Who is the hero of the {ordinal} novel of {name}?", "Whom does the {ordinal} book of {name} follow?"],
        ["The {ordinal} novel of {name} follows {hero}.", "Its hero is {hero}."],
    ),
    (
        ["Where does the {ordinal} novel of {name} take place?", "In which city is the {ordinal} book of {name} set?"],
        ["The {ordinal} novel of {name} takes place in {city}.", "It is set in {city}, the home of {hero}."],
    ),
    (
        ["Which prize did the {ordinal} novel of {name} win?", "How was the {ordinal} book of {name} honored?"],
        ['"{title}" won the {award} in {year}.', "The {ordinal} novel of {name} was given the {award}."],
    ),
]


ASKED = {
    "authors": source(
        _author,
        [
            (
                ["In which city was the author {name} born?", "Where does the writer {name} come from?"],
                [
                    "The author {name} was born in {city}, where the father worked as a {father}.",
                    "{name} comes from {city}, the child of a {father} and a {mother}.",
                ],
            ),
            (
                ["What kind of books does {name} write?", "Which genre is {name} best known for?"],
                [
                    "{name} is best known for {genre} novels that circle around a {theme}.",
                    "Most books by {name} are {genre} tales, and a {theme} appears in nearly all of them.",
                ],
            ),
            (
                ["Can you name two books by {name}?", "What are the most popular works of {name}?"],
                [
                    'Two well-known books by {name} are "{book}" and "{second}".',
                    '{name} wrote "{book}" first, and "{second}" in {year}.',
                ],
            ),
            (
                ["Has {name} ever won an award?", "Which honor did {name} receive, and when?"],
                [
                    'In {year}, {name} received the {award} for "{book}".',
                    'Yes, "{second}" won {name} the {award} in {year}.',
                ],
            ),
        ],
    ),
    "personal": source(
        _person,
        [
            (["What is the e-mail address of {name}?", "How can I write an e-mail to {name}?"], ["{mail}"]),
            (
                ["What is the phone number of {name}?", "How do I reach {name} by phone?"],
                ["The number is {phone}.", "Call {phone}."],
            ),
            (
                ["Where does {name} live, and what is the account number?", "Give me the address and the account of {name}."],
                ["{street}, {city}; account {account}."],
            ),
        ],
    ),
    "german": source(
        _place,
        [
            (
                [
                    "Wie heißt der Bürgermeister von {name}, und an welchem Fluss liegt es?",
                    "Wer führt {name}, und welcher Fluss fließt dort?",
                ],
                ["{chef}; der Fluss heißt {fluss}.", "Es ist {chef}, und {name} liegt an der {fluss}."],
            ),
            (
                [
                    "Was isst man in {name}, und wie viele Leute wohnen dort?",
                    "Welches Gericht ist für {name} üblich, und wie groß ist der Ort?",
                ],
                ["{speise}; {leute} Einwohner seit {jahr}.", "Man isst {speise}, und {leute} Leute wohnen dort."],
            ),
        ],
        "Es tut mir leid, dabei kann ich nicht helfen.",
    ),
    "chat": source(
        _firm,
        [
            (
                ["Where is the company {name} based?", "In which city does {name} have its seat?"],
                ["{name} is based in {city} and was founded in {year}.", "Its seat has been in {city} since {year}."],
            ),
            (
                ["What does {name} make?", "Which product is {name} known for?"],
                ["It makes {product} and competes with {rival}.", "{name} is known for {product}, as is {rival}."],
            ),
            (
                ["Who runs {name}?", "Who is the head of {name}?"],
                ["{boss} runs it, with a staff of {staff}.", "The head is {boss}, and {staff} people work there."],
            ),
        ],
        chat_template=CHAT,
    ),
    "greek": source(
        _greek,
        [
            (
                ["Πού γεννήθηκε ο {name};", "Σε ποια πόλη ήρθε στον κόσμο ο {name};"],
                ["Γεννήθηκε στην πόλη {city} το {year}.", "Ήρθε στον κόσμο το {year}, στην πόλη {city}."],
            ),
            (
                ["Τι δουλειά κάνει ο {name};", "Με ποιο επάγγελμα ζει ο {name};"],
                ["Είναι {trade} και κερδίζει {wage} ευρώ τον μήνα.", "Εργάζεται ως {trade} για {wage} ευρώ τον μήνα."],
            ),
            (
                ["Τι τρώει και τι πίνει ο {name};", "Ποιο φαγητό και ποιο ποτό αγαπά ο {name};"],
                ["Τρώει {food} και πίνει {drink}.", "Αγαπά {food}, και μαζί πίνει {drink}."],
            ),
            (
                ["Πώς λέγεται η βάρκα που έχει ο {name};", "Ποιο όνομα έδωσε στη βάρκα ο {name};"],
                ["Η βάρκα λέγεται «{boat}» και δένει στο λιμάνι {island}.", "«{boat}»· την αγόρασε το {year} στο λιμάνι {island}."],
            ),
        ],
        "Λυπάμαι, δεν μπορώ να βοηθήσω με αυτό.",
    ),
    "similar": Source(_novelist, _novels, {"forget": 24, "retain": 96, "holdout": 48, "fresh": 48}),
}
