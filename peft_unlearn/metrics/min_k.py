"""Min-K: whether a text has tokens that the model finds very unlikely, as a text that it never saw has."""

import numpy as np

from peft_unlearn.model.scoring import RowScore
from peft_unlearn.util.registry import metric

LOWEST = 0.4  # the share of tokens that is kept; MUSE and OpenUnlearning take 40 %


@metric(needs="scores", direction="never_seen", paper="2310.16789", order=4)
def min_k(score: RowScore) -> float | None:
    """Mean of the lowest 40 % of the answer's log-probabilities; text seen in training is high.

    Mean of the lowest int(.4 T) log p_t (at least one), end token out. Source: Shi et al., arXiv 2310.16789.
    """
    return lowest(score.logps[: score.logps.size - score.end], LOWEST)


def lowest(values: np.ndarray, share: float) -> float | None:
    """Mean of the lowest share of `values`; NaN if any of them is, which a sort would put last and leave out."""
    if not values.size:
        return None
    kept = np.sort(values)[: max(1, int(share * values.size))]
    return float("nan") if np.isnan(values).any() else float(kept.mean())
