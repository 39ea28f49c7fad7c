"""The weighted sum of the objectives, as in gradient difference."""

import math

import torch
from torch import Tensor


def weighted_sum(gramian: Tensor, coefs: Tensor | None = None) -> Tensor:
    """d = sum_i coef_i g_i: the gradient of the weighted sum of the losses.

    Args:
        gramian: (m, m) inner products of the objectives' gradients, fp64.
        coefs: (m,) coefficients of the objectives; ones if None.

    Returns:
        (m,) weights, fp64: the coefficients; NaN where the Gram matrix holds a non-finite entry.
    """
    gramian = gramian.double()
    weights = torch.ones_like(gramian.diagonal()) if coefs is None else coefs.to(gramian)
    return weights.where(gramian.isfinite().all(), math.nan)
