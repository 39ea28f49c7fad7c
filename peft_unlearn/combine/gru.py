"""Gradient rectified unlearning (GRU)."""

import torch
from torch import Tensor

from peft_unlearn.combine._sides import on_sides
from peft_unlearn.util.registry import combiner


@combiner(paper="2503.09117")
@on_sides
def gru(products: Tensor) -> Tensor:
    """Gradient rectified unlearning: the forget gradient loses what would undo retaining.

    d = g_F' + g_R, where g_F' is g_F without its component against g_R.

    g_F = c_0 g_0 is the forget gradient, g_R = sum_{i>0} c_i g_i the retain side's. In conflict (g_F·g_R < 0) g_F' = g_F - (g_F·g_R / ||g_R||²)
    g_R, the vector nearest to g_F that has g_F'·g_R >= 0; otherwise g_F' = g_F and d is the sum. Always g_R·d >= ||g_R||²: to first order the
    retain loss falls at least as fast as without forgetting. Nothing of the kind is promised to the forget loss, which rises where
    g_F·d = ||g_F'||² + g_F·g_R < 0. A preconditioned optimizer such as Adam does not keep the property.

    The paper's rule is g_F'; its code has variants that step along g_F' alone and others that add the retain gradient, as here, and it projects
    off a moving average of g_R over the steps, where this takes the step's own.

    Args:
        gramian: (m, m) inner products of the objectives' gradients, fp64; the forget objective is number 0.
        coefs: (m,) coefficients of the objectives; ones if None.

    Returns:
        (m,) weights, fp64. An objective whose gradient is at most 1e-4 of the largest is left out (weight 0); all NaN where the Gram matrix
        holds a non-finite entry.

    >>> gru(torch.tensor([[1.0, -4.0], [-4.0, 64.0]]))
    tensor([1.0000, 1.0625], dtype=torch.float64)

    Source: Wang et al., 2025, arXiv 2503.09117.
    """
    conflict = products[0, 1].clamp(max=0.0)
    return torch.stack([torch.ones_like(conflict), 1 - conflict / products[1, 1]])
