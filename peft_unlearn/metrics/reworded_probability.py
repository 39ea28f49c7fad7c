"""The probability of an answer when its question is asked in other words."""

from collections.abc import Sequence

import numpy as np

from peft_unlearn.metrics.probability import probability
from peft_unlearn.model.scoring import RowScore
from peft_unlearn.util.registry import metric


@metric(needs="scores", direction="lower")
def reworded_probability(reworded: Sequence[RowScore]) -> float | None:
    """Mean probability of the answer over its question's other wordings; forgotten is low.

    Mean of `probability`, end token in. None without other wordings, or of an answer of no tokens.
    """
    values = [value for one in reworded if (value := probability(one)) is not None]
    return float(np.mean(values)) if values else None
