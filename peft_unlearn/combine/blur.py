"""Bi-level unlearning (BLUR)."""

import torch
from torch import Tensor

from peft_unlearn.combine._sides import on_sides
from peft_unlearn.util.registry import combiner


@combiner(paper="2506.08164")
@on_sides
def blur(products: Tensor) -> Tensor:
    """Bi-level unlearning: the retain side moves only where it does not touch forgetting.

    d = g_F + g_R', where g_R' = g_R - (g_F·g_R / ||g_F||²) g_F is orthogonal to g_F.

    g_F = c_0 g_0 is the forget gradient, g_R = sum_{i>0} c_i g_i the retain side's. Forgetting is the lower of two levels and comes first: the
    retain side moves only among the directions that leave the forget loss alone to first order. Always g_F·d = ||g_F||²: the forget loss
    falls as if it were alone, also where the two agree and the sum would have lowered it faster. The retain loss rises where
    g_R·d = ||g_R'||² + g_F·g_R < 0. A preconditioned optimizer such as Adam does not keep the property.

    The projection, taken whether or not the two conflict, and the factor 1 before g_F are those of the authors' code.

    Args:
        gramian: (m, m) inner products of the objectives' gradients, fp64; the forget objective is number 0.
        coefs: (m,) coefficients of the objectives; ones if None.

    Returns:
        (m,) weights, fp64. An objective whose gradient is at most 1e-4 of the largest is left out (weight 0); all NaN where the Gram matrix
        holds a non-finite entry.

    >>> blur(torch.tensor([[1.0, -4.0], [-4.0, 64.0]]))
    tensor([5., 1.], dtype=torch.float64)

    Source: Reisizadeh et al., 2025, arXiv 2506.08164.
    """
    share = products[0, 1] / products[0, 0]
    return torch.stack([1 - share, torch.ones_like(share)])
