"""What each row's truth ratio adds to the aggregate of a set, 1 at its best."""

import numpy as np

from peft_unlearn.util.registry import metric


@metric(direction="higher", paper="2401.06121")
def truth_ratio_score(ratio: float | None, forget: bool) -> float | None:
    """How well a truth ratio serves its set, 1 at its best; a forget row should prefer no answer, any other row the right one.

    min(R, 1/R) of a forget row: 1 where right and wrong answers cannot be told apart. max(0, 1 - R) of another: 1 where wrong answers are
    impossible beside the right one. Source: TOFU (arXiv 2401.06121).
    """
    if ratio is None:
        return None
    with np.errstate(divide="ignore", over="ignore"):
        value = np.float64(ratio)
        return float(np.minimum(value, 1 / value) if forget else np.maximum(0, 1 - value))
