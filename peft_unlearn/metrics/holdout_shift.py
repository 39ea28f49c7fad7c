"""How far training moved text that nobody taught: what the targets of a run and the reference of its verdict are both moved by.

A fine-tune makes unseen text of its kind less likely, and so does unlearning a little. What a model that never saw the forget set shows of it is
therefore moved by what the holdout shows. A model that learned more rows than the never-seen one may also know unseen text better. Moved by all of
that, the forget set would stand as unseen text does in this model, and be more likely than the never-seen model has it; unmoved, the other way
round. So half of it counts, in logs.
"""

import math
from collections.abc import Sequence

import numpy as np


def holdout_shift(now: Sequence[float] | np.ndarray, then: Sequence[float] | np.ndarray) -> float:
    """What moves log-probabilities: mean(now) / mean(then) of the Min-K of holdout rows in nats, (n,) each, and its root where that is below 1."""
    grown = float(np.mean(now) / np.mean(then))
    return max(grown, math.sqrt(grown))
