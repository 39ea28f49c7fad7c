"""How far training moved text that nobody taught: what the targets of a run and the reference of its verdict are both moved by.

A fine-tune makes unseen text of its kind less likely, and so does unlearning a little. What a model that never saw the forget set shows of it is
therefore moved by what the holdout shows.
"""

from collections.abc import Sequence

import numpy as np


def holdout_shift(now: Sequence[float] | np.ndarray, then: Sequence[float] | np.ndarray) -> float:
    """The factor by which log-probabilities of unseen text have grown: mean(now) / mean(then), both the Min-K of holdout rows in nats (n,)."""
    return float(np.mean(now) / np.mean(then))
