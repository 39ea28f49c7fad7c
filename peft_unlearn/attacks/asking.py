"""Rows that are asked in several ways: what the strongest way brings back of each, for an asker tries them all."""

from collections.abc import Sequence

import numpy as np

from peft_unlearn.attacks.context import Context, Shown, shown
from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.rows import Row
from peft_unlearn.metrics.exact_memorization import exact_memorization
from peft_unlearn.metrics.extraction_strength import extraction_strength
from peft_unlearn.metrics.probability import probability
from peft_unlearn.metrics.results import summarize
from peft_unlearn.model.scoring import RowScore, score

SCORED = {"probability": probability, "exact_memorization": exact_memorization, "extraction_strength": extraction_strength}


def scored(context: Context, asked: Sequence[Sequence[Row]], progress: str) -> list[list[RowScore]]:
    """Every way of asking each row, in one go."""
    flat = [row for ways in asked for row in ways]
    found = iter(score(context.model, flat, context.tokenizer, batch_size=context.batch_size, progress=progress))
    return [[next(found) for _ in ways] for ways in asked]


def strongest(what: str, asked: Sequence[Sequence[RowScore]], *, threshold: str | None) -> list[Shown]:
    """The largest of each metric over the ways in which a row was asked; None for a row that was not, NaN where one way is."""
    found = []
    for name, metric in SCORED.items():
        values = [[value for one in ways if (value := metric(one)) is not None] for ways in asked]
        found.append(shown(what, name, summarize([float(np.max(each)) if each else None for each in values]), threshold=threshold))
    return found


def row(prompt: Sequence[int], answer: Sequence[int]) -> Row:
    """A row of this prompt, whose answer has the labels."""
    return {"input_ids": [*prompt, *answer], "labels": [IGNORE] * len(prompt) + list(answer)}
