"""Normalized gradient difference (NGDiff)."""

from torch import Tensor

from peft_unlearn.combine._active import on_active
from peft_unlearn.util.registry import combiner


@combiner(paper="2410.22086", unit=True)
@on_active
def ngdiff(gramian: Tensor, coefs: Tensor) -> Tensor:
    """Normalized gradient difference: every objective pulls with a unit vector, whatever the size of its loss.

    d = sum_i coef_i g_i / ||g_i||.

    With a retain loss L_R and the forget loss -L_F this is d = g_R/||g_R|| - g_F/||g_F||, for which g_R·d >= 0 >= g_F·d: to first order,
    no step along -d raises the one or lowers the other. ||d|| = sqrt(2 - 2 cos(g_R, g_F)), so it only comes to rest where the two agree
    entirely.

    Args:
        gramian: (m, m) inner products of the objectives' gradients, fp64.
        coefs: (m,) coefficients of the objectives; ones if None.

    Returns:
        (m,) weights, fp64. An objective whose gradient is at most 1e-4 of the largest is left out (weight 0); all NaN where the Gram matrix
        holds a non-finite entry.

    >>> import torch
    >>> ngdiff(torch.tensor([[1.0, -4.0], [-4.0, 64.0]]))
    tensor([1.0000, 0.1250], dtype=torch.float64)

    Source: Bu et al., 2024, arXiv 2410.22086.
    """
    return coefs / gramian.diagonal().sqrt()
