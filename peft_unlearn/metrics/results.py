"""What an evaluation gives: a result for each metric, with the value of each row behind it."""

from typing import TypedDict

import numpy as np


class _Measured(TypedDict):
    mean: float
    n: int
    rows: list[float | None]


class Result(_Measured, total=False):
    """A metric over a set: the mean of its n measured rows (NaN if none) and all rows in order, None where nothing can be measured.

    A result of a set as a whole (an AUC) has no rows and brings its interval along.
    """

    interval: list[float]  # 95 %, of a set as a whole
    layers: list[float]  # the logit lens: the mean of each layer, the first one first
    p99: float  # a divergence: the 99th percentile over all tokens
    reason: str  # why the mean is NaN


class Evaluation(dict[str, Result]):
    """Metric name -> result. `answers` are the greedy answers in the order of rows (empty if none were generated); they stay in memory."""

    def __init__(self, rows: dict[str, list[float | None]], answers: list[str]) -> None:
        super().__init__((name, summarize(values)) for name, values in rows.items())
        self.answers = answers


def summarize(rows: list[float | None]) -> Result:
    """Mean over the rows that have something to measure; a NaN among them makes it NaN."""
    measured = [value for value in rows if value is not None]
    return {"mean": float(np.mean(measured)) if measured else float("nan"), "n": len(measured), "rows": rows}


def not_computed(reason: str, rows: int = 0) -> Result:
    """The result of a metric that cannot be had for any of `rows` rows."""
    return {"mean": float("nan"), "n": 0, "rows": [None] * rows, "reason": reason}
