"""Objectives without a gradient are left out of a combination that normalizes."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol

import torch
from torch import Tensor

# A gradient that is 0 in theory (the KL to the reference, on the first step) is fp32 noise of norm 1e-7 beside .002 to .1 for the others,
# and normalized it is a random direction. 1e-4 of the largest norm tells the two apart.
NOISE = 1e-4


class Weights(Protocol):
    """What a combiner is: (m, m) Gram matrix, (m,) coefficients or None for ones -> (m,) weights, fp64."""

    def __call__(self, gramian: Tensor, coefs: Tensor | None = None) -> Tensor: ...


def named_after(formula: Callable[..., Tensor]) -> Callable[[Weights], Weights]:
    """Give a combiner the name and the docstring of its formula, and leave it the signature that it is called with."""

    def name(combiner: Any) -> Weights:
        named: Weights = wraps(formula, assigned=("__module__", "__name__", "__qualname__", "__doc__"))(combiner)
        del vars(named)["__wrapped__"]
        return named

    return name


def on_active(combine: Callable[[Tensor, Tensor], Tensor]) -> Weights:
    """Makes a combiner of a formula that may assume gradients that are finite and not zero.

    `combine` sees only the objectives that have a gradient (norm above 1e-4 of the largest) and a coefficient; the others get weight 0,
    and the rest moves as if they were not there. Any non-finite entry of the Gram matrix makes all weights NaN, so that no divergence is
    hidden.
    """

    @named_after(combine)
    def combiner(gramian: Tensor, coefs: Tensor | None = None) -> Tensor:
        gramian = gramian.double()
        norms = gramian.diagonal().sqrt()
        if not gramian.isfinite().all():
            return torch.full_like(norms, math.nan)
        coefs = torch.ones_like(norms) if coefs is None else coefs.to(norms)
        sizes = norms.where(coefs != 0, 0.0)
        active = sizes > NOISE * sizes.max()
        weights = torch.zeros_like(norms)
        weights[active] = combine(gramian[active][:, active], coefs[active])
        return weights

    return combiner
