"""One model on one set of rows: every metric, with its value for each row."""

from collections.abc import Iterable
from typing import TypedDict

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.evaluation import generation
from peft_unlearn.evaluation.metrics import TEACHER_FORCED, rouge_l
from peft_unlearn.evaluation.rows import Row, answer_texts
from peft_unlearn.evaluation.scoring import score


class Result(TypedDict):
    """A metric over a set: the mean of its n measured rows (NaN if none) and all rows in order, None where nothing can be measured."""

    mean: float
    n: int
    rows: list[float | None]


class Evaluation(dict[str, Result]):
    """Metric name -> result. `answers` are the greedy answers in the order of rows (empty if none were generated); they stay in memory."""

    def __init__(self, rows: dict[str, list[float | None]], answers: list[str]) -> None:
        super().__init__((name, summarise(values)) for name, values in rows.items())
        self.answers = answers


def summarise(rows: list[float | None]) -> Result:
    """Mean over the rows that have something to measure; a NaN among them makes it NaN."""
    measured = [value for value in rows if value is not None]
    return {"mean": float(np.mean(measured)) if measured else float("nan"), "n": len(measured), "rows": rows}


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    *,
    batch_size: int = 16,
    generate: bool = True,
    label: str = "evaluating",
) -> Evaluation:
    """Loss, probability, extraction strength, exact memorisation and, with `generate`, ROUGE-L of `rows` under the active adapters.

    `label` stands before the progress bars.
    """
    rows = list(rows)
    scores = score(model, rows, tokenizer, batch_size=batch_size, progress=f"{label}: scoring")
    values = {name: [metric(row) for row in scores] for name, metric in TEACHER_FORCED.items()}
    answers: list[str] = []
    if generate:
        answers = generation.generate(model, tokenizer, rows, batch_size=batch_size, progress=f"{label}: answering")
        values["rouge_l"] = [rouge_l(reference, answer) for reference, answer in zip(answer_texts(tokenizer, rows), answers, strict=True)]
    return Evaluation(values, answers)
