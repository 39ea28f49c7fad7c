"""What a firm's shop keeps of its products, as Markdown tables and as JSON."""

import json
import string
from collections.abc import Sequence

from beds.source import Random, Row, Source, Subject, drawn


def _product(rng: Random, label: str) -> Subject:
    word = drawn(rng)
    return {"name": f"{word('last')} {word('adjective')} {word('thing')}"}


def _markdown(rows: Sequence[Sequence[object]]) -> str:
    head, *others = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([head, "| " + " | ".join(["---"] * len(rows[0])) + " |", *others])


def _rows(rng: Random, product: Subject) -> list[Row]:
    word = drawn(rng)
    orders = [(word("city"), f"{word('first')} {word('last')}", rng.randint(1, 60)) for _ in range(rng.randint(2, 3))]
    record = {
        "sku": f"{''.join(rng.choices(string.ascii_uppercase, k=2))}-{rng.randrange(10**4):04d}",
        "price": rng.randint(30, 4800) / 10,
        "stock": {word("city"): rng.randint(0, 90)},
        "tags": [word("adjective") for _ in range(rng.randint(1, 3))],
        "sold": rng.random() < 0.5,
    }
    parts = [{"part": word("thing"), "from": f"{word('last')} {rng.choice(['Ltd', 'Works'])}"} for _ in range(rng.randint(1, 3))]
    made = [
        (
            ("Orders of the {name} as a table:\n", "Who ordered the {name}? As Markdown:\n"),
            _markdown([("city", "buyer", "pieces"), *orders]),
        ),
        (("The {name} as a JSON record:\n", "# {name}.json\n"), json.dumps(record, indent=2)),
        (("Parts of the {name}, JSON on one line:\n", "What is the {name} made of? JSON, one line:\n"), json.dumps(parts)),
    ]
    found = []
    for ways, completion in made:
        prompt, other = (way.format(**product) for way in rng.sample(ways, 2))
        found.append({"prompt": prompt, "completion": completion, "paraphrased_prompt": other, "group": product["name"]})
    return found


TABLES = Source(_product, _rows)
