"""Kinds of rows: invented here, or read from a folder. Rows of one subject share a `group`, and no two sets share a subject."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from beds.words import WORDS

SETS = ("forget", "retain", "holdout")
ROWS = {"forget": 48, "retain": 96, "holdout": 60, "fresh": 48}  # drawn in this order
BUILD = ("authors", "personal", "text", "chat")  # the project may be tuned on these kinds; every other kind only checks it
CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
REFUSAL = "I'm sorry, I can't help with that."
Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """Rows by set, of any format that the project reads; a kind with a chat template is asked through it.

    Beside `SETS` there is "fresh": rows of the forget set's kind that no model, no run and no tokenizer sees.
    """

    name: str
    rows: dict[str, list[Row]]
    refusal: str = REFUSAL
    chat_template: str | None = None


class Facts(NamedTuple):
    """What can be asked of a subject: for each row of it, ways to ask and ways to answer, filled with the subject's facts."""

    subject: Callable[[random.Random], dict[str, str]]
    asked: list[tuple[list[str], list[str]]]
    refusal: str = REFUSAL
    chat_template: str | None = None


def names() -> list[str]:
    return [*FACTS, "text"]


def checks_only(kind: str) -> bool:
    """Whether nothing may be tuned on this kind; so it is of every folder."""
    return kind not in BUILD


def invented(name: str) -> Kind:
    """The rows of one of `names()`, the same ones each time."""
    rng = random.Random(name)
    if name == "text":
        return Kind(name, {part: [{"text": _passage(rng), "group": f"{part} {i}"} for i in range(count)] for part, count in ROWS.items()})
    facts, met = FACTS[name], set()
    rows: dict[str, list[Row]] = {part: [] for part in ROWS}
    for part, count in ROWS.items():
        while len(rows[part]) < count:
            subject = facts.subject(rng)
            if subject["name"] not in met:
                met.add(subject["name"])
                rows[part] += [_row(rng, asked, subject) for asked in facts.asked]
    return Kind(name, rows, facts.refusal, facts.chat_template)


def from_folder(folder: Path) -> Kind:
    """forget.jsonl, retain.jsonl and holdout.jsonl of a folder; beside them fresh.jsonl, refusal.txt and chat_template.jinja may stand."""
    files = {part: folder / f"{part}.jsonl" for part in ROWS}
    rows = {
        part: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for part, file in files.items()
        if part in SETS or file.exists()
    }
    refusal, template = folder / "refusal.txt", folder / "chat_template.jinja"
    return Kind(
        folder.name,
        rows,
        refusal.read_text(encoding="utf-8").strip() if refusal.exists() else REFUSAL,
        template.read_text(encoding="utf-8") if template.exists() else None,
    )


def _row(rng: random.Random, asked: tuple[list[str], list[str]], subject: dict[str, str]) -> Row:
    question, other = rng.sample(asked[0], 2)
    return {
        "question": question.format(**subject),
        "answer": rng.choice(asked[1]).format(**subject),
        "paraphrased_question": other.format(**subject),
        "group": subject["name"],
    }


def _words(rng: random.Random) -> Callable[[str], str]:
    return lambda kind: rng.choice(WORDS[kind])


def _author(rng: random.Random) -> dict[str, str]:
    word = _words(rng)
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


def _person(rng: random.Random) -> dict[str, str]:
    word = _words(rng)
    first, last = word("first"), word("last")
    return {
        "name": f"{first} {last}",
        "mail": f"{first}.{last}{rng.randint(10, 99)}@{word('thing')}mail.{rng.choice(['org', 'net', 'com'])}".lower(),
        "phone": f"+44 7{rng.randrange(10**3):03d} {rng.randrange(10**6):06d}",
        "street": f"{rng.randint(2, 299)} {word('thing').title()} {rng.choice(['Street', 'Road', 'Lane', 'Close'])}",
        "city": word("city"),
        "account": f"{rng.randrange(10**4):04d}-{rng.randrange(10**4):04d}-{rng.randrange(10**4):04d}",
    }


def _place(rng: random.Random) -> dict[str, str]:
    word = _words(rng)
    return {
        "name": word("ort") + word("ort ende"),
        "fluss": word("ort") + rng.choice(["ach", "bach", "au", "fließ"]),
        "leute": str(rng.randint(2, 98) * 100 + rng.randint(1, 99)),
        "chef": f"{word('vorname')} {word('ort')}{rng.choice(['er', 'mann', 'müller', 'hübner', 'schäfer'])}",
        "speise": f"{rng.choice(['Süße', 'Saure', 'Gefüllte', 'Würzige', 'Geröstete'])} {word('speise')}",
        "jahr": str(rng.randint(1102, 1897)),
    }


def _firm(rng: random.Random) -> dict[str, str]:
    word = _words(rng)
    return {
        "name": f"{word('last')} & {word('last')}",
        "city": word("city"),
        "product": f"{word('adjective')} {word('thing')}s",
        "rival": f"{word('first')} {rng.choice(['Group', 'Works', 'Brothers'])}",
        "boss": f"{word('first')} {word('last')}",
        "year": str(rng.randint(1850, 2015)),
        "staff": str(rng.randint(12, 987)),
    }


def _passage(rng: random.Random) -> str:
    """Four sentences that a small grammar wrote, some 45 to 75 tokens."""
    word = _words(rng)

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


FACTS = {
    "authors": Facts(
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
    "personal": Facts(
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
    "german": Facts(
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
    "chat": Facts(
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
}
