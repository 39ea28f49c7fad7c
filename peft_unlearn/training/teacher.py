"""The mean teacher: an exponential moving average of the adapter's weights (arXiv 2504.13388).

The average is of the factors A and B, not of their product: EMA(B)EMA(A) is not EMA(BA). The teacher starts as a copy of the student, since from
zero in both factors the product would lag quadratically.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Teacher:
    """The weights of the teacher, `parameters`, in the order of the student's, and the decay of their average for each optimizer step."""

    def __init__(self, parameters: Sequence[Tensor], decay: float):
        self.parameters, self.decay = list(parameters), decay

    @torch.no_grad()
    def follow(self, student: Sequence[Tensor], clip: float = 1.0) -> None:
        """teacher <- (1 - rate) teacher + rate student with rate = (1 - decay) * clip, in place.

        `clip` is the step's clipping coefficient c: a step that was cut to a share c also moves the teacher by that share only.
        """
        torch._foreach_lerp_(self.parameters, list(student), (1 - self.decay) * clip)

    @torch.no_grad()
    def damp(self, gradients: Sequence[Tensor], student: Sequence[Tensor], damping: float, clip: float = 1.0) -> None:
        """gradients += damping * clip * (student - teacher), in place; added after clipping."""
        torch._foreach_add_(list(gradients), torch._foreach_sub(list(student), self.parameters), alpha=damping * clip)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights, by their place in the order."""
        return {str(i): p.detach().contiguous() for i, p in enumerate(self.parameters)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights of a `state_dict`."""
        for i, p in enumerate(self.parameters):
            p.copy_(state[str(i)])
