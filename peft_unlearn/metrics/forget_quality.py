"""TOFU's forget quality: whether truth ratios tell a model from one that never saw the forget set."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import ks_2samp

from peft_unlearn.util.registry import metric


@metric(direction="higher", paper="2401.06121")
def forget_quality(ratios: Sequence[float | None], never_seen: Sequence[float | None]) -> float:
    """p-value that truth ratios come from the same distribution as the never-seen model's; high is good.

    Two-sample Kolmogorov-Smirnov test. Near 0 they differ, in whichever direction; a high value is no proof, above all of few rows. NaN without rows
    on both sides, or with a NaN among them. Source: TOFU (arXiv 2401.06121).
    """
    samples = [np.array([ratio for ratio in side if ratio is not None], np.float64) for side in (ratios, never_seen)]
    if any(not sample.size or np.isnan(sample).any() for sample in samples):
        return float("nan")
    return float(ks_2samp(*samples).pvalue)
