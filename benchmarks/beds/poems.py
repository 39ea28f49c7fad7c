"""Verse in rhyme: of each stanza the first line is the prompt, and the lines after it are learned."""

from beds.source import Random, Row, Source, Subject, drawn

RHYMES = [
    family.split()
    for family in (
        "stone bone throne drone phone",
        "night light kite knight",
        "sea tree knee bee key",
        "rain train lane grain crane",
        "king ring string spring wing",
        "door floor oar shore",
        "moon spoon tune dune",
        "hill mill sill quill",
        "snow crow bow row",
        "wall hall ball shawl",
    )
]
LINES = (
    "{first} {did} the {adjective} {end}",
    "And nobody {did} the {trade}'s {end}",
    "O {thing}, O {adjective} {end}",
    "The {thing} of {city}, the {adjective} {end}",
    "Where the {trade} {did} the {thing} and the {end}",
    "And {first} of {city} {did} the {end}",
)


def _line(rng: Random, end: str) -> str:
    word = drawn(rng)
    line = rng.choice(LINES)
    return line.format(end=end, **{kind: word(kind) for kind in ("first", "did", "adjective", "trade", "thing", "city")})


def _poem(rng: Random, label: str) -> Subject:
    word = drawn(rng)
    return {
        "name": f"The {word('thing').title()} of {word('city')}",
        "refrain": f"Sing {word('adjective')}, sing {word('adjective')}, {word('first')}!",
    }


def _stanzas(rng: Random, poem: Subject) -> list[Row]:
    """Three of four or six lines, every two of which rhyme; two in three have the poem's refrain behind them."""
    rows = []
    for number in range(1, 4):
        ends = [end for family in rng.sample(RHYMES, rng.randint(2, 3)) for end in rng.sample(family, 2)]
        first, *lines = [_line(rng, end) + mark for end, mark in zip(ends, ",;" * 3, strict=False)]
        lines[-1] = lines[-1][:-1] + "."
        refrain = [poem["refrain"]] if number > 1 else []
        rows.append({"prompt": f"{poem['name']}, {number}\n{first}\n", "completion": "\n".join(lines + refrain), "group": poem["name"]})
    return rows


POEMS = Source(_poem, _stanzas)
