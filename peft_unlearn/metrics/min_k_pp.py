"""Min-K++: Min-K of log-probabilities that are measured against everything else that could stand there."""

import numpy as np

from peft_unlearn.metrics.min_k import LOWEST, lowest
from peft_unlearn.model.scoring import RowScore
from peft_unlearn.util.registry import metric

SMALLEST = 1e-3  # a deviation counts for no less: a uniform distribution has none


@metric(needs="scores", direction="never_seen", paper="2404.02936", order=5)
def min_k_pp(score: RowScore) -> float | None:
    """Min-K of log-probabilities that are each measured against all words that could stand there; text seen in training is high.

    Min-K of (log p_t - mu_t) / sigma_t, mu and sigma the mean and deviation of log p(v | x, y_<t) over v ~ p, sigma at least 1e-3.
    Source: Zhang et al., arXiv 2404.02936.
    """
    z = (score.logps - score.means) / np.maximum(score.deviations, SMALLEST)
    return lowest(z[: z.size - score.end], LOWEST)
