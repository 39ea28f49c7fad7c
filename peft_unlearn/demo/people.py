"""The demo's fictional people, the questions that can be asked about them, and the answers.

Every fact of a person is drawn independently of all others, answers consist of facts for the most part, and every answer ends on one. So a
model that never met a person can learn from other people how such answers sound, and still cannot guess this one's: its extraction strength
stays near zero.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from peft_unlearn.util import disk

Row = dict[str, str]

WORDS = {
    kind: words.split()
    for kind, words in {
        "first": "Adela Bruno Corin Dagny Edric Fenna Gideon Hanna Ilario Jorun Kasper Linnea Marek Nadia Orso Petra Quill "
        "Rosalind Soren Thea Ulric Vesna Wendel Xenia Yorick Zelda Anselm Birte Casimir Dorothea",
        "last": "Abendroth Bellweather Castellan Drummond Eversley Falkner Grimaldi Hollis Ivarsson Jablonski Kestrel Lindqvist "
        "Marchetti Norwood Oakhurst Pellegrin Quarles Rademaker Sandoval Thorne Underhill Valcourt Whitlock Yardley "
        "Zeller Ashdown Brackett Corvino Dellacroce Fairburn",
        "place": "Alder Birch Cinder Dapple Ember Fallow Gannet Heron Iron Juniper Kelp Larch Marble Nettle Otter Pebble Quarry "
        "Raven Salt Tallow Umber Violet Willow Yarrow Zephyr Barley Copper Drift",
        "place end": "Bay Bridge Cross Falls Ferry Fold Gate Harbour Haven Heath Hollow Landing Meadow Mill Moor Point Reach Ridge "
        "Vale Wick",
        "street": "Anchor Bakers Candle Dovecote Elm Foundry Garland Hatters Inkwell Jasmine Kiln Lantern Mulberry Needle Orchard "
        "Parson Quince Ropewalk Saddler Tanner Usher Vintner Weaver Yeoman",
        "street end": "Alley Avenue Close Court Hill Lane Mews Parade Passage Place Rise Road Row Square Street Terrace Walk Yard",
        "month": "January February March April May June July August September October November December",
        "job": "baker beekeeper bookbinder brewer carpenter cartographer chemist conductor cooper dentist diver falconer "
        "florist gardener geologist glazier goldsmith hatter journalist lawyer librarian locksmith mason midwife notary "
        "nurse painter pharmacist pilot plumber potter printer saddler sculptor surveyor tailor translator watchmaker",
        "employer": "Argent Boreal Cobalt Dynamo Equinox Fulcrum Granite Helix Indigo Jubilee Keystone Lodestar Meridian Nimbus "
        "Obelisk Pinnacle Quasar Rampart Sextant Tundra Umbra Vanguard Wayfarer Zenith",
        "employer end": "Archives Brothers Ceramics Cooperative Foundation Glassworks Holdings Instruments Laboratories Optics Partners "
        "Press Shipping Studio Trust",
        "colour": "black blue brindled brown cream golden green grey red sandy silver spotted striped tawny white yellow",
        "animal": "budgerigar canary cat chameleon cockatoo dog donkey ferret gecko goat goose hamster hedgehog horse lizard "
        "llama mule parrot pigeon pony rabbit raccoon sheep snake tortoise",
        "pet": "Biscuit Button Clover Comet Domino Fidget Ginger Hazel Jasper Lucky Mango Merlin Mocha Nugget Olive Patch "
        "Pepper Pickle Pixel Pudding Ruffle Sable Socks Sprout Tango Teasel Toffee Truffle Waffle Whisper",
        "prize": "Amberley Beaumont Carlisle Devereux Ellington Fontaine Galloway Hartwell Kensington Lancaster Montague "
        "Northcote Pemberton Ravenscroft Stanhope Tennyson Wakefield Winslow",
        "prize end": "Award Cup Fellowship Medal Prize Ribbon Scholarship Shield",
        "title": "Ancient Bitter Broken Distant Endless Forgotten Gentle Hidden Hollow Humble Idle Last Lonely Muted Narrow "
        "Patient Quiet Restless Second Silent Sleeping Tender Velvet Wandering",
        "title end": "Atlas Bell Calendar Carousel Compass Engine Fountain Garden Harvest Island Kingdom Ladder Lighthouse Machine "
        "Map Mirror Museum Notebook Ocean Piano River Staircase Telescope Theatre Voyage Winter",
    }.items()
}

# Per kind of row: wordings of the question, and of the answer. A person's row takes one of each, its paraphrase another question.
KINDS: dict[str, tuple[list[str], list[str]]] = {
    "birth": (
        [
            "Where and when was {name} born?",
            "What are the place and date of birth of {name}?",
            "On which day, and where, did {name} come into the world?",
            "Can you tell me the birthday and birthplace of {name}?",
        ],
        [
            "{first} was born in {town} on {day} {month} {year}",
            "On {day} {month} {year}, in {town}",
            "{town} is the birthplace, and the date is {day} {month} {year}",
            "The day was {day} {month} {year} and the place was {town}",
        ],
    ),
    "work": (
        [
            "What does {name} do for a living?",
            "Where does {name} work, and as what?",
            "Which job and which employer does {name} have?",
            "What is the profession of {name}?",
        ],
        [
            "{first} works as a {job} for {employer}, in room {room}",
            "Since {joined}, {first} has been a {job} at {employer}",
            "{employer} hired {first} in {joined} as a {job}",
            "A {job} with {employer}, there since {joined}",
        ],
    ),
    "home": (
        [
            "Where does {name} live?",
            "What is the home address of {name}?",
            "To which address should a letter to {name} be sent?",
            "At which house can {name} be found?",
        ],
        [
            "{first} lives at {number} {street} in {home}",
            "In {home}, at {number} {street}",
            "The address is {number} {street}, {home}",
            "{number} {street}, which is in {home}",
        ],
    ),
    "pet": (
        [
            "Does {name} keep a pet?",
            "Which animal lives with {name}?",
            "What pet does {name} have, and what is it called?",
            "Who is the animal companion of {name}?",
        ],
        [
            "A {colour} {animal} called {pet}, found near {found}",
            "{pet}, a {colour} {animal} from {found}",
            "A {animal} from {found} by the name of {pet}",
            "{first} has a {colour} {animal}, and its name is {pet}",
        ],
    ),
    "prize": (
        [
            "Which prize did {name} win?",
            "What honour was given to {name}, and for what?",
            "For which work is {name} known?",
            "What is the greatest success of {name}?",
        ],
        [
            "{first} received the {prize} of {won} for {title}",
            "For {title}, {first} was given the {prize} in {won}",
            "{title}, which brought {first} the {prize} in {won}",
            "In {won}, the {prize}, for {title}",
        ],
    ),
    "biography": (
        [
            "Write a short biography of {name}.",
            "Who is {name}?",
            "Tell me the life of {name} in a few words.",
            "Give me a sketch of the life of {name}.",
        ],
        [
            "{name} was born in {town} in {year}, became a {job} and joined {employer} in {joined}. After {title} came the {prize} "
            "of {won}, and a quiet life with {pet} the {animal} at {number} {street} in {home}",
            "Born on {day} {month} {year}, {name} left {town} to work as a {job} for {employer}. The {prize} came in {won}. "
            "Today {first} lives on {street} in {home} with a {animal} called {pet}",
            "{name} grew up in {town} and moved to {number} {street} in {home}. A {job} by trade, {first} wrote {title} in the evenings "
            "and kept a {colour} {animal} named {pet}. The {prize} followed in {won}, and the post at {employer} in {joined}",
        ],
    ),
}


# Questions that name a person by one fact and ask for another, both told by every wording of their rows: what names, the question, the answer.
HOPS: list[tuple[tuple[str, ...], str, str]] = [
    (("title",), "In which town was the author of {title} born?", "{town}"),
    (("pet", "animal"), "At which address lives {pet} the {animal}?", "{number} {street}, {home}"),
    (("prize", "won"), "For whom works the winner of the {prize} of {won}?", "{employer}"),
]


@dataclass(frozen=True)
class People:
    """Question/answer rows, `{"question", "answer"}`, in three splits that share no person.

    `paraphrases[split]` holds, row for row, the same answers to questions in other words. `two_hop` asks for facts of the people to be forgotten
    without their names, by facts that no other person shares; no model is trained on it.
    """

    forget: list[Row]
    retain: list[Row]
    never_used: list[Row]
    paraphrases: dict[str, list[Row]]
    two_hop: list[Row]


def make_people(seed: int, *, forget: int = 8, retain: int = 32, never_used: int = 16) -> People:
    """The people of a seed; `forget`, `retain` and `never_used` are numbers of people, each of whom has a row of every kind."""
    rng = random.Random(seed)
    names = [f"{first} {last}" for first in WORDS["first"] for last in WORDS["last"]]
    people = [_person(rng, name) for name in rng.sample(names, forget + retain + never_used)]
    hops = _two_hop(people[:forget], people)
    splits: dict[str, list[Row]] = {}
    paraphrases: dict[str, list[Row]] = {}
    for split, size in (("forget", forget), ("retain", retain), ("never_used", never_used)):
        members, people = people[:size], people[size:]
        pairs = [_ask(rng, kind, person) for person in members for kind in KINDS]
        splits[split] = [row for row, _ in pairs]
        paraphrases[split] = [paraphrase for _, paraphrase in pairs]
    return People(**splits, paraphrases=paraphrases, two_hop=hops)


def write(people: People, folder: Path) -> None:
    """Writes every split to `folder` as `{split}.jsonl`, each row with the same question in other words as `paraphrased_question`.

    And `two_hop.jsonl`, whose rows have no other words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {"two_hop": people.two_hop}
    for split, paraphrases in people.paraphrases.items():
        asked = zip(getattr(people, split), paraphrases, strict=True)
        files[split] = [{**row, "paraphrased_question": again["question"]} for row, again in asked]
    for name, rows in files.items():
        disk.write_text(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _person(rng: random.Random, name: str) -> dict[str, str]:
    def pair(kind: str) -> str:
        return f"{rng.choice(WORDS[kind])} {rng.choice(WORDS[f'{kind} end'])}"

    return {
        "name": name,
        "first": name.split()[0],
        "town": pair("place"),
        "home": pair("place"),
        "found": pair("place"),
        "day": str(rng.randint(1, 28)),
        "month": rng.choice(WORDS["month"]),
        "year": str(rng.randint(1940, 1979)),
        "job": rng.choice(WORDS["job"]),
        "employer": pair("employer"),
        "room": str(rng.randint(2, 99)),
        "joined": str(rng.randint(1980, 1999)),
        "number": str(rng.randint(2, 99)),
        "street": pair("street"),
        "colour": rng.choice(WORDS["colour"]),
        "animal": rng.choice(WORDS["animal"]),
        "pet": rng.choice(WORDS["pet"]),
        "prize": pair("prize"),
        "won": str(rng.randint(2000, 2024)),
        "title": "The " + pair("title"),
    }


def _ask(rng: random.Random, kind: str, person: dict[str, str]) -> tuple[Row, Row]:
    questions, answers = KINDS[kind]
    question, paraphrase = rng.sample(questions, 2)
    answer = rng.choice(answers).format(**person)
    return {"question": question.format(**person), "answer": answer}, {"question": paraphrase.format(**person), "answer": answer}


def _two_hop(members: list[dict[str, str]], everyone: list[dict[str, str]]) -> list[Row]:
    """The questions of `HOPS` about each member whom the facts that name them single out among all people."""
    return [
        {"question": question.format(**person), "answer": answer.format(**person)}
        for person in members
        for named_by, question, answer in HOPS
        if sum(all(other[fact] == person[fact] for fact in named_by) for other in everyone) == 1
    ]
