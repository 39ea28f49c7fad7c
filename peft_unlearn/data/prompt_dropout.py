"""Prompt dropout: a row whose prompt has lost some of its tokens or got others, so that more than one exact wording is trained on."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from peft_unlearn.data.labels import IGNORE

TEMPLATE = 0.9  # share of the prompts from which on a token of them belongs to their template, and stays
FEWEST = 8  # rows from which on that can be told
COLUMNS = ("input_ids", "labels", "target_logps", "instead")
INSERTED, LONGEST = 0.5, 8  # how often a piece of another prompt comes in, and of how many tokens at most


class PromptDropout:
    """Leaves out tokens of a tokenized row's prompt, and half of the times puts a piece of another row's in. No row becomes longer than the longest.

    Of a text without a prompt it is the beginning that goes, up to a third of it.

    Special tokens and the words of a template stand in nearly every prompt, and so are told from what is asked without a tokenizer. Of fewer than
    `FEWEST` rows nothing is left out.

    Args:
        rows: all rows of the set.
        share: of a prompt's tokens, between 0 and 1.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], share: float):
        counts, prompts, self.longest = Counter[int](), list[list[int]](), 0
        for row in rows:
            prompts.append(list(row["input_ids"][: _start(row)]))
            counts.update(set(prompts[-1]))
            self.longest = max(self.longest, len(row["input_ids"]))
        self.few = len(prompts) < FEWEST
        self.template = {token for token, count in counts.items() if count >= TEMPLATE * len(prompts)}
        own = [[token for token in prompt if token not in self.template] for prompt in prompts]
        self.pieces = [tokens for tokens in own if tokens]
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
        return row | (self._with_a_piece(changed, rng) if self.share and start > 1 and rng.random() < INSERTED else changed)

    def _with_a_piece(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """A row with tokens of another prompt before its own ones or among them; as it is where it has none of its own, or no room."""
        free = [place for place in range(_start(row)) if row["input_ids"][place] not in self.template]
        most = min(LONGEST, self.longest - len(row["input_ids"]))
        if not free or most < 1:
            return row
        other = self.pieces[int(rng.integers(len(self.pieces)))]
        begin = int(rng.integers(len(other)))
        piece = other[begin : begin + int(rng.integers(1, most + 1))]
        at = int(rng.choice([free[0], rng.choice([*free, free[-1] + 1])]))
        unlabeled = {"labels": IGNORE, "target_logps": 0.0, "instead": [0.0] * len(row["instead"][0]) if "instead" in row else None}
        inserted = {name: piece if name == "input_ids" else [unlabeled[name]] * len(piece) for name in row}
        return {name: [*values[:at], *inserted[name], *values[at:]] for name, values in row.items()}


def _start(row: Mapping[str, Any]) -> int:
    """Where the labels begin."""
    return next((place for place, label in enumerate(row["labels"]) if label != IGNORE), len(row["labels"]))
