"""The weighted sum of the objectives, as in gradient difference."""

import math

import torch
from torch import Tensor

from peft_unlearn.util.registry import combiner


@combiner(paper="2203.12817")
def weighted_sum(gramian: Tensor, coefs: Tensor | None = None) -> Tensor:
    """Weighted sum: the gradient of the weighted sum of the losses.

    d = sum_i coef_i g_i.

    Args:
        gramian: (m, m) inner products of the objectives' gradients, fp64.
        coefs: (m,) coefficients of the objectives; ones if None.

    Returns:
        (m,) weights, fp64: the coefficients; NaN where the Gram matrix holds a non-finite entry.

    >>> weighted_sum(torch.tensor([[1.0, -4.0], [-4.0, 64.0]]), torch.tensor([1.0, 0.5]))
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    gramian = gramian.double()
    weights = torch.ones_like(gramian.diagonal()) if coefs is None else coefs.to(gramian)
    return weights.where(gramian.isfinite().all(), math.nan)
