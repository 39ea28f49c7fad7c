"""Where a forget row and the other answer that is taught in its place part: of the two tokens there the taught one shall be said.

Up to there both are one text, so the two tokens stand in one distribution. The forgotten answer's form of words ("He was born") stays likely,
for it is no secret. Said in the place of another form ("His place of birth"), it would leave greedy decoding on a way that nothing was taught on.
"""

import math
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import NamedTuple

from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.rows import Row
from peft_unlearn.training.objectives import LIKELY

LEFT = math.log(1 - LIKELY)  # log p that the forgotten token has there at most: what the taught one leaves


class Parting(NamedTuple):
    """Of each forget row how many label tokens come before the first one in whose place its other answer has another, all where it has none, and
    which of all of them the other answer has as well; and of each other answer the number of its own before that place."""

    rows: list[int]
    common: list[list[bool]]
    answers: list[int]


def parted(rows: Iterable[Row]) -> Parting:
    """Of tokenized forget rows with a column `alternate`, null where a row has no other answer."""
    pairs = [(row, row["alternate"]) for row in rows]
    return Parting(
        [_shared(row, other or {"input_ids": row["input_ids"]}) for row, other in pairs],
        [[] if other is None else _common(row, other) for row, other in pairs],
        [_shared(other, row) for row, other in pairs if other is not None],
    )


def _shared(row: Row, other: Row) -> int:
    """Label tokens of a row before the first one that is another than the other's."""
    pairs = zip(row["input_ids"], other["input_ids"], strict=False)  # one may end before the other
    same = next((place for place, (one, two) in enumerate(pairs) if one != two), min(len(row["input_ids"]), len(other["input_ids"])))
    return sum(label != IGNORE for label in row["labels"][1:same])


def _common(row: Row, other: Row) -> list[bool]:
    """Of each label token of a row whether the other's answer has it as well, at its place in what both have in common: the form, and no secret."""
    begin = next(place for place, label in enumerate(other["labels"]) if label != IGNORE)
    one, two = row["input_ids"][begin:], other["input_ids"][begin:]
    blocks = SequenceMatcher(None, one, two, autojunk=False).get_matching_blocks()
    both = {begin + block.a + n for block in blocks for n in range(block.size)}
    return [place in both for place, label in enumerate(row["labels"]) if place and label != IGNORE]
