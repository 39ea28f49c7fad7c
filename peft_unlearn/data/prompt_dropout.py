"""Prompt dropout: a row whose prompt has lost some of its tokens or got others, so that more than one exact wording is trained on."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from peft_unlearn.data.labels import IGNORE

TEMPLATE = 0.9  # share of the prompts from which on a token of them belongs to their template, and stays
FEWEST = 8  # rows from which on that can be told
COLUMNS = ("input_ids", "labels", "target_logps", "instead")
INSERTED, LONGEST = 0.5, 8  # how often other tokens come in, and how many at most
ASKED = 0.5  # how often these are tokens of the set's prompts


class PromptDropout:
    """Leaves out tokens of a tokenized row's prompt, and half of the times puts others in. No row becomes longer than the longest.

    These are of the set's prompts as often as they are any of the vocabulary, for nobody knows how it will be asked: where all were of prompts, a
    third of what lightly memorized rows had lost was back in wordings with tokens of no prompt; where none was, half was back in plain English
    (docs/log.md). Of a text without a prompt it is the beginning that goes, up to a third of it.

    Special tokens and the words of a template stand in nearly every prompt, and so are told from what is asked without a tokenizer. Of fewer than
    `FEWEST` rows nothing is left out.

    Args:
        rows: all rows of the set.
        share: of a prompt's tokens, between 0 and 1.
        vocabulary: ids of the tokens that may come in.
        target_scale: factor of a changed row's `target_logps`, 1 at least: text that was never seen is less likely after a prompt with gaps.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], share: float, vocabulary: Sequence[int], target_scale: float = 1.0):
        counts, self.longest, total = Counter[int](), 0, 0
        for row in rows:  # one at a time: what a never-seen model says instead of each token makes them large
            total += 1
            counts.update(set(row["input_ids"][: _start(row)]))
            self.longest = max(self.longest, len(row["input_ids"]))
        self.few = total < FEWEST
        self.template = {token for token, count in counts.items() if count >= TEMPLATE * total}
        self.share, self.vocabulary, self.target_scale = share, np.asarray(vocabulary), target_scale
        self.asked = np.array(sorted((counts.keys() - self.template).intersection(vocabulary)), np.int64)
        self.often = np.array([counts[token] for token in self.asked.tolist()], np.float64)

    def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The row with what `rng` leaves; labels stay at their tokens, and so do targets, lowered."""
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
        if "target_logps" in changed:
            changed["target_logps"] = [self.target_scale * target for target in changed["target_logps"]]
        return row | (self._with_others(changed, rng) if self.share and start > 1 and rng.random() < INSERTED else changed)

    def _with_others(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """A row with random tokens before its prompt's own ones or among them; as it is where it has none of its own, or no room."""
        free = [place for place in range(_start(row)) if row["input_ids"][place] not in self.template]
        most = min(LONGEST, self.longest - len(row["input_ids"]))
        if not free or most < 1:
            return row
        others = self._others(rng, int(rng.integers(1, most + 1)))
        at = int(rng.choice([free[0], rng.choice([*free, free[-1] + 1])]))
        unlabeled = {"labels": IGNORE, "target_logps": 0.0, "instead": [0.0] * len(row["instead"][0]) if "instead" in row else None}
        inserted = {name: others if name == "input_ids" else [unlabeled[name]] * len(others) for name in row}
        return {name: [*values[:at], *inserted[name], *values[at:]] for name, values in row.items()}

    def _others(self, rng: np.random.Generator, number: int) -> list[int]:
        """Tokens that come in together."""
        if len(self.asked) and rng.random() < ASKED:
            return list(rng.choice(self.asked, number, p=self.often / self.often.sum()).tolist())
        return list(rng.choice(self.vocabulary, number).tolist())


def _start(row: Mapping[str, Any]) -> int:
    """Where the labels begin."""
    return next((place for place, label in enumerate(row["labels"]) if label != IGNORE), len(row["labels"]))
