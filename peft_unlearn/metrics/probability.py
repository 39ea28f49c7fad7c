"""The probability of the answer, made comparable between answers of different lengths."""

import numpy as np

from peft_unlearn.model.scoring import RowScore
from peft_unlearn.util.registry import metric


@metric(needs="scores", direction="lower", paper="2401.06121", order=1)
def probability(score: RowScore) -> float | None:
    """Probability of the answer, as a geometric mean over its tokens; forgotten is low.

    exp((1/T) sum_t log p_t) = p(y|x)^(1/T), end token in. Source: TOFU (arXiv 2401.06121).
    """
    return float(np.exp(score.logps.mean())) if score.logps.size else None
