"""How the gradients of several objectives become one step: from their Gram matrix to weights, norm and clipping coefficient."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from peft_unlearn.util.registry import COMBINERS

TINY = 1e-12  # norms count for no less where they are divided by


class Combined(NamedTuple):
    """A step d = w'G before clipping: its `weights` w (m,) in fp64, its `norm` |d|, and the coefficient `clip` that it is multiplied with."""

    weights: Tensor
    norm: Tensor
    clip: float


def combine_step(
    gramian: Tensor,
    coefficients: Sequence[float],
    *,
    combiner: str,
    max_grad_norm: float,
    missing: Tensor | None = None,
    scale: float = 1.0,
) -> Combined:
    """Weights of the objectives, and how far their sum is cut. |d|² = w'(GG')w, so that no gradient is needed.

    Args:
        gramian: GG' (m, m) in fp64 of the m objectives' gradients, the forget objective's first.
        coefficients: of the m objectives, as the recipe has them.
        combiner: name of the rule that weighs the objectives.
        max_grad_norm: the longest step; 0 is no limit.
        missing: with `stop_at`, how far the forget rows still are from their targets, about 1 at the start and 0 at the targets. Under a combiner
            that makes unit vectors of the gradients, the forget objective's coefficient is multiplied with the root of it: at length 1 it would
            never come to rest at its targets (docs/concepts/early-stopping.md).
        scale: by which a gradient scaler has made all gradients too long (fp16 only).
    """
    gramian, weights = gramian / scale**2, torch.tensor(coefficients, dtype=torch.float64)
    if missing is not None and COMBINERS[combiner].unit:
        weights[0] *= missing.sqrt()
    weights = COMBINERS[combiner](gramian, weights)
    norm = (weights @ gramian @ weights).clamp_min(0).sqrt()
    return Combined(weights, norm, min(1.0, max_grad_norm / max(norm.item(), TINY)) if max_grad_norm else 1.0)


def described(gramian: Tensor, weights: Tensor, names: Sequence[str], scale: float = 1.0) -> dict[str, Tensor]:
    """What is logged of a step: each objective's gradient norm and weight, and the cosine of each gradient with the forget objective's."""
    norms = gramian.diagonal().clamp_min(0).sqrt() / scale
    cosines = gramian[0] / scale**2 / (norms[0] * norms).clamp_min(1e-30)
    found = {f"grad_norm/{name}": norm for name, norm in zip(names, norms, strict=True)}
    found |= {f"weight/{name}": weight for name, weight in zip(names, weights, strict=True)}
    return found | {f"cosine/forget_{name}": cosine for name, cosine in zip(names[1:], cosines[1:], strict=True)}
