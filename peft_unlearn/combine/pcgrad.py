"""Gradient surgery: projecting conflicting gradients (PCGrad)."""

from itertools import permutations

import torch
from torch import Tensor

from peft_unlearn.combine._active import on_active
from peft_unlearn.util.registry import combiner


@combiner(paper="2001.06782")
@on_active
def pcgrad(gramian: Tensor, coefs: Tensor) -> Tensor:
    """Gradient surgery: each gradient loses what conflicts with another one.

    d = sum_i g_i', each g_i' being c_i g_i less its projection on every other g_j that it conflicts with (g_i'·g_j < 0), one j after another.

    With two objectives neither loss rises to first order: d is the sum where they agree, and in conflict the sum of what each gradient has
    across the other. With more, a later projection may bring back an earlier conflict. A preconditioned optimizer such as Adam does not keep
    the property.

    The paper draws the order of the j anew at each step. This takes the mean over all orders, which is what that draw gives on average, so
    that a step holds no random number and does not depend on the order of the objectives.

    Args:
        gramian: (m, m) inner products of the objectives' gradients, fp64; the work grows as m!.
        coefs: (m,) coefficients of the objectives; ones if None.

    Returns:
        (m,) weights, fp64. An objective whose gradient is at most 1e-4 of the largest is left out (weight 0); all NaN where the Gram matrix
        holds a non-finite entry.

    >>> pcgrad(torch.tensor([[1.0, -4.0], [-4.0, 64.0]]))
    tensor([5.0000, 1.0625], dtype=torch.float64)

    Source: Yu et al., 2020, arXiv 2001.06782, algorithm 1.
    """
    gradients = torch.diag(coefs)  # row i: c_i g_i, as weights of the objectives
    total = torch.zeros_like(coefs)
    for i, gradient in enumerate(gradients):
        orders = list(permutations(j for j in range(len(coefs)) if j != i))
        for order in orders:
            projected = gradient.clone()
            for j in order:
                projected[j] -= (gramian[j] @ projected).clamp(max=0.0) / gramian[j, j]
            total += projected / len(orders)
    return total
