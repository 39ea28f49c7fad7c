"""MUSE's PrivLeak: how far the membership of the forget set is from that of a model that never saw it."""

import numpy as np

from peft_unlearn.util.registry import metric


@metric(direction="never_seen", paper="2407.06460")
def priv_leak(auc: float, never_seen: float = 0.5) -> float:
    """Change of the Min-K AUC against the never-seen model's, in per cent; far from 0 on either side is a trace.

    (A - A_r) / A_r * 100, from AUCs of Min-K as `membership` gives them: of a model, and of one that never saw the set. MUSE's A counts the other
    way, a forget row that looks less like a member than a holdout row, so A = 1 - `auc`, which OpenUnlearning computes as well: -100 where the
    forget rows all look like members and the never-seen model shows .5, 0 where nothing is left, above 0 where they are burnt out. NaN or inf where
    A_r is 0. Source: MUSE (arXiv 2407.06460), section 3.
    """
    a, a_never_seen = np.float64(1 - auc), np.float64(1 - never_seen)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float((a - a_never_seen) / a_never_seen * 100)
