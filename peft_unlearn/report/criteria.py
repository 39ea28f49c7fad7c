"""A criterion of a verdict: one question, and its answer in numbers, which passes only where the rows prove it.

It compares an estimate with a limit of `thresholds`. It has passed where the whole 95 % interval lies within the limit (a test of
equivalence: a model whose true number is at the limit passes in at most 2.5 of 100 cases), has failed where all of it lies beyond, and is else not
shown with so many rows.
"""

import math
from dataclasses import dataclass
from typing import Any

from peft_unlearn.metrics.statistics import Estimate, power, rows_needed

COLLAPSED, NOT_FORGOTTEN, SUPPRESSED, OVER_FORGOTTEN = "COLLAPSED", "NOT FORGOTTEN", "SUPPRESSED", "OVER-FORGOTTEN"
UNSHOWN, FORGOTTEN = "NOT SHOWN", "FORGOTTEN AS TESTED"
PASSED, FAILED, NOT_SHOWN = "passed", "failed", "not shown"

LEAST = 5e-4  # a power that is smaller is one of rows that are all alike, and no number to name
MOST = 50  # times as many rows as there are: nobody has them, and the number is near its limit
ALONE = 0.5  # what may be left where nothing shows what a model would say that never saw the rows
NO_REFERENCE = "nothing tells what a model says of these rows that never saw them"


@dataclass(frozen=True)
class Criterion:
    """One question, its answer in numbers, and the word that it speaks for where it fails."""

    name: str
    word: str
    question: str
    state: str
    text: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    threshold: float | None = None
    reference: float | None = None
    n: int | None = None
    groups: int | None = None
    power: str | None = None
    rows_needed: int | None = None

    @property
    def size(self) -> float:
        """By how many times its threshold it is crossed: what is named first."""
        return abs(self.value) / self.threshold if self.value is not None and self.threshold else math.inf


def criterion(
    name: str,
    word: str,
    question: str,
    estimate: Estimate,
    limit: float,
    text: str,
    numbers: dict[str, float],
    threshold: float,
    reference: float | None,
    scale: float = 1.0,
) -> Criterion:
    """The state of an estimate beside its limit; `scale` is what a whole is in the estimate's unit, for the power's share."""
    state = PASSED if estimate.high <= limit else FAILED if estimate.low > limit else NOT_SHOWN
    least = power(estimate) / scale
    told = estimate.n > 1 and math.isfinite(least) and least >= LEAST
    seen = f"{estimate.n} rows would have shown a difference of {least:.2g} in 95 of 100 cases" if told else None
    needed = rows_needed(estimate, limit) if state == NOT_SHOWN else None
    needed = needed if needed is None or needed <= MOST * estimate.n else None
    interval = (numbers["low"], numbers["high"])
    whole = interval if all(map(math.isfinite, interval)) else None
    return Criterion(
        name, word, question, state, text, numbers["mean"], whole, threshold, reference, estimate.n, estimate.groups, seen, needed
    )


def as_entry(criterion: Criterion) -> dict[str, Any]:
    """A criterion as a report has it."""
    return {**vars(criterion), "interval": None if criterion.interval is None else list(criterion.interval)}
