"""The two sides of a run: the forget objective, number 0, and the sum of all others, which hold the retain set."""

from collections.abc import Callable

import torch
from torch import Tensor

from peft_unlearn.combine._active import NOISE, Weights, named_after, on_active


def on_sides(combine: Callable[[Tensor], Tensor]) -> Weights:
    """Makes a combiner of a formula in two gradients, g_F = c_0 g_0 and g_R = sum_{i>0} c_i g_i.

    `combine` maps their (2, 2) Gram matrix to their two weights. Objectives without a gradient are left out, and all weights are NaN where
    the Gram matrix is not finite, as in `on_active`. Where a side is left with nothing, or its gradients cancel down to 1e-4 of their size,
    there is nothing to project off, and the weights are those of the sum.
    """

    @named_after(combine)
    def combiner(gramian: Tensor, coefs: Tensor | None = None) -> Tensor:
        gramian, kept = gramian.double(), _kept(gramian, coefs)
        sides = torch.zeros(2, len(kept), dtype=kept.dtype, device=kept.device)  # rows: g_F and g_R, as weights of the objectives
        sides[0, 0], sides[1, 1:] = kept[0], kept[1:]
        products = sides @ gramian @ sides.T
        if (products.diagonal() <= NOISE**2 * sides.square() @ gramian.diagonal()).any():
            return kept
        return combine(products) @ sides

    return combiner


@on_active
def _kept(gramian: Tensor, coefs: Tensor) -> Tensor:
    """The coefficients of the objectives that have a gradient; `on_active` gives the others 0."""
    return coefs
