"""TOFU's model utility: one number for what a model can still do."""

from collections.abc import Sequence

import numpy as np

from peft_unlearn.util.registry import metric


@metric(direction="higher", paper="2401.06121")
def model_utility(values: Sequence[float]) -> float:
    """Harmonic mean of what the model can still do; high is good.

    Of the nine {probability, ROUGE-L, truth ratio} x {retain, real authors, world facts}; 0 if any of them is 0. Source: TOFU (arXiv 2401.06121).
    """
    with np.errstate(divide="ignore", over="ignore"):
        return float(len(values) / np.sum(1 / np.asarray(values, np.float64)))
