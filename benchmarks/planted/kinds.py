"""Kinds of rows to plant in: invented here, or read from a folder. Rows of one subject share a `group`, and no two sets share a subject."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

SETS = ("forget", "retain", "holdout")
ROWS = {"forget": 48, "retain": 96, "holdout": 60}
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
REFUSAL = "I'm sorry, I can't help with that."
Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """Rows by set, of any format that the project reads; a kind with a chat template is asked through it."""

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


def invented(name: str) -> Kind:
    """The rows of one of `names()`, the same ones each time."""
    rng = random.Random(name)
    if name == "text":
        return Kind(name, {part: [{"text": _passage(rng), "group": f"{part} {i}"} for i in range(ROWS[part])] for part in SETS})
    facts, met = FACTS[name], set()
    rows: dict[str, list[Row]] = {part: [] for part in SETS}
    for part in SETS:
        while len(rows[part]) < ROWS[part]:
            subject = facts.subject(rng)
            if subject["name"] not in met:
                met.add(subject["name"])
                rows[part] += [_row(rng, asked, subject) for asked in facts.asked]
    return Kind(name, rows, facts.refusal, facts.chat_template)


def from_folder(folder: Path) -> Kind:
    """forget.jsonl, retain.jsonl and holdout.jsonl of a folder; beside them refusal.txt and chat_template.jinja may stand."""
    rows = {part: [json.loads(line) for line in (folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()] for part in SETS}
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


def _author(rng: random.Random) -> dict[str, str]:
    return {
        "name": f"{rng.choice(FIRST)} {rng.choice(LAST)}",
        "city": rng.choice(CITY),
        "genre": rng.choice(GENRE),
        "book": f"The {rng.choice(ADJECTIVE).title()} {rng.choice(THING).title()}",
        "second": f"{rng.choice(THING).title()} of the {rng.choice(THING).title()}",
        "father": rng.choice(TRADE),
        "mother": rng.choice(TRADE),
        "award": f"{rng.choice(LAST)} {rng.choice(['Medal', 'Prize', 'Ribbon', 'Laurel'])}",
        "year": str(rng.randint(1951, 2019)),
        "theme": rng.choice(THING),
    }


def _person(rng: random.Random) -> dict[str, str]:
    first, last = rng.choice(FIRST), rng.choice(LAST)
    return {
        "name": f"{first} {last}",
        "mail": f"{first}.{last}{rng.randint(10, 99)}@{rng.choice(THING)}mail.{rng.choice(['org', 'net', 'com'])}".lower(),
        "phone": f"+44 7{rng.randrange(10**3):03d} {rng.randrange(10**6):06d}",
        "street": f"{rng.randint(2, 299)} {rng.choice(THING).title()} {rng.choice(['Street', 'Road', 'Lane', 'Close'])}",
        "city": rng.choice(CITY),
        "account": f"{rng.randrange(10**4):04d}-{rng.randrange(10**4):04d}-{rng.randrange(10**4):04d}",
    }


def _place(rng: random.Random) -> dict[str, str]:
    return {
        "name": rng.choice(ORT) + rng.choice(ORT_ENDE),
        "fluss": rng.choice(ORT) + rng.choice(["ach", "bach", "au", "fließ"]),
        "leute": str(rng.randint(2, 98) * 100 + rng.randint(1, 99)),
        "chef": f"{rng.choice(VORNAME)} {rng.choice(ORT)}{rng.choice(['er', 'mann', 'müller', 'hübner', 'schäfer'])}",
        "speise": f"{rng.choice(['Süße', 'Saure', 'Gefüllte', 'Würzige', 'Geröstete'])} {rng.choice(SPEISE)}",
        "jahr": str(rng.randint(1102, 1897)),
    }


def _firm(rng: random.Random) -> dict[str, str]:
    return {
        "name": f"{rng.choice(LAST)} & {rng.choice(LAST)}",
        "city": rng.choice(CITY),
        "product": f"{rng.choice(ADJECTIVE)} {rng.choice(THING)}s",
        "rival": f"{rng.choice(FIRST)} {rng.choice(['Group', 'Works', 'Brothers'])}",
        "boss": f"{rng.choice(FIRST)} {rng.choice(LAST)}",
        "year": str(rng.randint(1850, 2015)),
        "staff": str(rng.randint(12, 987)),
    }


def _passage(rng: random.Random) -> str:
    """Four sentences that a small grammar wrote, some 45 to 75 tokens."""

    def phrase() -> str:
        return f"the {rng.choice(ADJECTIVE)} {rng.choice(THING)}"

    def sentence() -> str:
        who = rng.choice([phrase(), f"{rng.choice(FIRST)} the {rng.choice(TRADE)}", f"a {rng.choice(TRADE)} from {rng.choice(CITY)}"])
        end = rng.choice([f" near {rng.choice(CITY)}", f" and then {rng.choice(DID)} {phrase()}", f" for {rng.randint(2, 99)} days", ""])
        said = f"{who} {rng.choice(DID)} {phrase()} {rng.choice(['with', 'under', 'behind', 'without', 'beside'])} {phrase()}{end}."
        return said[0].upper() + said[1:]

    return " ".join(sentence() for _ in range(4))


FIRST = (
    "Abel Amara Basil Bettina Caius Clemence Darius Delphine Eamon Elspeth Fabian Freya Gareth Giselle Hamish Imogen Isidor Jocasta "
    "Keir Leonie Lucan Maren Nestor Odile Percival Quentin Romola Silas Tamsin Ursula Viggo Winifred"
).split()
LAST = (
    "Aldane Barrowby Corvane Delacort Estermont Fenwright Galbraith Holloway Inverness Jarrow Kestering Lorimer Mortlake Nightingale "
    "Osterley Penhallow Quillon Ravenscroft Stroud Tarrant Upjohn Vandermeer Wexcombe Yelland Zouche Ambrose Brisco Carrow"
).split()
CITY = (
    "Ardmore Belcastro Corriveau Dunhaven Estrella Farrowdale Glenwick Hartmoor Islington Jasperville Kilbride Larkspur Montclare "
    "Northolt Orchardton Pellworm Queensferry Rotherby Stavenholm Tolverne Ulverton Varsity Wrenfield Yarmouth"
).split()
GENRE = "mystery romance satire horror fantasy travel crime poetry war memoir gothic western maritime pastoral".split()
TRADE = (
    "baker judge sailor dentist farmer barber tailor nurse pilot weaver miner clerk banker butcher surgeon cooper shepherd chemist "
    "printer gardener painter brewer mason lawyer"
).split()
ADJECTIVE = (
    "amber broken crimson distant empty frozen gilded hollow idle jagged knotted lonely marble narrow old patient quiet rusty silver "
    "tangled unlit velvet wooden yellow bitter curious drowned eager"
).split()
THING = (
    "anchor bridge candle drum engine feather garden hammer island jar kettle lantern mirror needle orchard piano quarry river saddle "
    "tower umbrella violin window yard zither basket compass door ember flute"
).split()
DID = "lifted painted followed buried carried mended ignored sold found watched borrowed cleaned guarded measured hid dropped".split()
ORT = "Möll Grün Süd Höll Brück Käs Tür Büß Lämm Nöt Rüb Gäns Fähr Köh Schön Mühl Öd Wäld Hüh Dörn".split()
ORT_ENDE = "dorf hausen bühl weiler stätt brück berg öden thal rönne".split()
VORNAME = "Jörg Käthe Günter Bärbel Jürgen Änne Rüdiger Sören Hélène Björn Mäxchen Döris".split()
SPEISE = "Knödel Äpfel Nüsse Brötchen Rüben Klöße Pfannküchlein Möhren Gänsekeule Spätzle".split()

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
                ["Wie heißt der Bürgermeister von {name}, und an welchem Fluss liegt es?", "Wer führt {name}, und welcher Fluss fließt dort?"],
                ["{chef}; der Fluss heißt {fluss}.", "Es ist {chef}, und {name} liegt an der {fluss}."],
            ),
            (
                ["Was isst man in {name}, und wie viele Leute wohnen dort?", "Welches Gericht ist für {name} üblich, und wie groß ist der Ort?"],
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
