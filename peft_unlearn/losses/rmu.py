"""RMU, representation misdirection: the hidden states of the forget set go to a fixed vector, those of the retain set stay."""

import math

import torch
from torch import Tensor

from peft_unlearn.util.registry import loss


def direction(size: int, device: torch.device | None = None) -> Tensor:
    """A unit vector of `size` entries, the same on every machine and in every run: (size,) fp64.

    The paper draws each entry uniformly from [0, 1) once and normalizes. Here entry i is the fractional part of i times the golden ratio,
    which fills [0, 1) as evenly and leaves no seed to lose.
    """
    golden = (1 + math.sqrt(5)) / 2
    vector = torch.arange(1, size + 1, dtype=torch.float64, device=device) * golden % 1
    unit: Tensor = vector / vector.norm()
    return unit


@loss(paper="2403.03218", lowers=False, ranges={"scale": "at least 0"})
def rmu(hidden: Tensor, *, scale: float = 2.0) -> Tensor:
    """Mean over the hidden dimension of (h - scale * u)^2, u a fixed unit vector (`direction`).

    Its gradient is (2 / H)(h - scale * u): it grows with the distance and ends at scale * u. Note the mean over H, which makes it H times
    weaker than the squared norm.

    Args:
        hidden: (N, H) fp32 hidden states of the chosen layer at the label positions.
        scale: length of the target vector in the units of the hidden states.

    Returns:
        (N,) losses.

    >>> rmu(torch.zeros(1, 4)), rmu(2 * direction(4)[None])
    (tensor([1.]), tensor([0.], dtype=torch.float64))

    Source: Li et al., 2024, arXiv 2403.03218 (WMDP).
    """
    return hidden_distance(hidden, scale * direction(hidden.shape[-1], hidden.device).to(hidden))


def hidden_distance(hidden: Tensor, ref_hidden: Tensor) -> Tensor:
    """Mean over the hidden dimension of (h - h_ref)^2, RMU's loss on the retain set: (N, H), (N, H) -> (N,)."""
    return (hidden - ref_hidden).square().mean(-1)
