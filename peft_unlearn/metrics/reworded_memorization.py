"""Exact memorization of an answer when its question is asked in other words."""

from collections.abc import Sequence

import numpy as np

from peft_unlearn.metrics.exact_memorization import exact_memorization
from peft_unlearn.model.scoring import RowScore
from peft_unlearn.util.registry import metric


@metric(needs="scores", direction="lower", paper="2205.10770")
def reworded_memorization(reworded: Sequence[RowScore]) -> float | None:
    """Mean share of the answer's tokens that are the first choice, over its question's other wordings; forgotten is low.

    Mean of `exact_memorization`, end token out. None without other wordings, or of an answer of no tokens.
    """
    values = [value for one in reworded if (value := exact_memorization(one)) is not None]
    return float(np.mean(values)) if values else None
