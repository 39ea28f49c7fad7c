"""The mean teacher: an exponential moving average of the adapter's weights (arXiv 2504.13388).

The average is of the factors A and B, not of their product: EMA(B)EMA(A) is not EMA(BA). The teacher starts as a copy of the student, since from
zero in both factors the product would lag quadratically.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def follow(teacher: Sequence[Tensor], student: Sequence[Tensor], decay: float, clip: float = 1.0) -> None:
    """teacher <- (1 - rate) teacher + rate student with rate = (1 - decay) * clip, in place.

    `clip` is the step's clipping coefficient c: a step that was cut to a share c also moves the teacher by that share only.
    """
    torch._foreach_lerp_(list(teacher), list(student), (1 - decay) * clip)


@torch.no_grad()
def damp(gradients: Sequence[Tensor], student: Sequence[Tensor], teacher: Sequence[Tensor], damping: float, clip: float = 1.0) -> None:
    """gradients += damping * clip * (student - teacher), in place; added after clipping."""
    torch._foreach_add_(list(gradients), torch._foreach_sub(list(student), list(teacher)), alpha=damping * clip)
