"""Prompt dropout: a row whose prompt has lost some of its tokens, so that more than one exact wording is trained on."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from peft_unlearn.data.labels import IGNORE

TEMPLATE = 0.9  # share of the prompts from which on a token of them belongs to their template, and stays
FEWEST = 8  # rows from which on that can be told
COLUMNS = ("input_ids", "labels", "target_logps", "instead")


class PromptDropout:
    """Leaves out tokens of a tokenized row's prompt. Of a text without a prompt it is the beginning that goes, up to a third of it.

    Special tokens and the words of a template stand in nearly every prompt, and so are told from what is asked without a tokenizer. Of fewer than
    `FEWEST` rows nothing is left out.

    Args:
        rows: all rows of the set.
        share: of a prompt's tokens, between 0 and 1.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], share: float):
        counts, total = Counter[int](), 0
        for row in rows:
            counts.update(set(row["input_ids"][: _start(row)]))
            total += 1
        self.few = total < FEWEST
        self.template = {token for token, count in counts.items() if count >= TEMPLATE * total}
        self.share = share

    def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The row with what `rng` leaves; labels and targets stay at their tokens."""
        if self.few:
            return row
        start, length = _start(row), len(row["input_ids"])
        keep = np.ones(length, bool)
        if start <= 1 or set(row["input_ids"][:start]) <= self.template:  # a text: no prompt of its own
            keep[start : start + int(rng.integers(0, max(1, (length - start) // 3)))] = False
        else:
            free = [place for place in range(start) if row["input_ids"][place] not in self.template]
            keep[free] = rng.random(len(free)) >= self.share
        changed = {name: [value for value, kept in zip(row[name], keep, strict=True) if kept] for name in COLUMNS if name in row}
        if not keep[start] and start == 0:
            changed["labels"][0] = IGNORE  # the first token has nothing before it
        return row | changed


def _start(row: Mapping[str, Any]) -> int:
    """Where the labels begin."""
    return next((place for place, label in enumerate(row["labels"]) if label != IGNORE), len(row["labels"]))
