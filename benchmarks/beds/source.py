"""Where rows of a kind come from: subjects are drawn, and each has its rows."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from beds.words import WORDS

SETS = ("forget", "retain", "holdout")
ROWS = {"forget": 48, "retain": 96, "holdout": 60, "fresh": 48}  # drawn in this order
CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
DRAWS = 10_000  # for one subject that is new
REFUSAL = "I'm sorry, I can't help with that."

Row = dict[str, Any]
Subject = dict[str, str]  # facts by name; its "name" tells it from others
Random = random.Random


@dataclass(frozen=True)
class Source:
    """A kind's rows.

    Args:
        subject: draws one; the text is a label of its own, for subjects that have no name.
        rows: those of a subject. They share a `group`, and no two sets share a subject.
        counts: at least so many rows of each set, in the order in which they are drawn.
        refusal: one in the kind's language.
    """

    subject: Callable[[Random, str], Subject]
    rows: Callable[[Random, Subject], list[Row]]
    counts: Mapping[str, int] = field(default_factory=lambda: ROWS)
    refusal: str = REFUSAL
    chat_template: str | None = None

    def draw(self, rng: Random, counts: Mapping[str, int]) -> dict[str, list[Row]]:
        met = set()
        found: dict[str, list[Row]] = {part: [] for part in counts}
        for part, count in counts.items():
            while len(found[part]) < count:
                drawn = (self.subject(rng, f"{part} {len(found[part])}") for _ in range(DRAWS))
                subject = next((subject for subject in drawn if subject["name"] not in met), None)
                if subject is None:
                    raise ValueError(f"this kind has too few names for {count} rows in the set {part}")
                met.add(subject["name"])
                found[part] += self.rows(rng, subject)
        return found


def drawn(rng: Random) -> Callable[[str], str]:
    """A word of a kind."""
    return lambda kind: rng.choice(WORDS[kind])
