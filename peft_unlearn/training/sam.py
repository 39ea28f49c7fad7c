"""Resistance to relearning: the forget loss is also taken where a first step of relearning would bring the adapter.

Sharpness-aware minimisation (Foret et al., 2021, arXiv 2010.01412), brought to unlearning by Fan et al. (2025, arXiv 2502.05374). Theirs steps up the
forget loss of the same batch. Here the step learns the rows of the step before, and the loss is of others: an attack learns some texts and asks
for the rest.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from peft_unlearn.training.gradients import Gradients


class Sam:
    """Two steps make a turn: one gathers the gradient of the forget set's cross-entropy, the other has its forget loss a step down that gradient.

    Args:
        parameters: of the adapter that is trained.
        grown: those of them that start at 0, whose norm says how far the adapter has come.
        radius: length of the step, as a share of that norm.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], grown: Iterable[nn.Parameter], radius: float):
        self.parameters, self.grown, self.radius = list(parameters), list(grown), radius
        self.gradient = Gradients(self.parameters, 1)

    def end(self, hard: bool) -> None:
        """A step has ended: `hard`, and the gradient has been used; or it has been gathered, by each process from its own rows."""
        if hard:
            self.gradient.matrix.zero_()
        elif torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.gradient.matrix)

    @contextlib.contextmanager
    def relearnt(self) -> Iterator[None]:
        """The adapter a step down the gradient, and bit for bit where it was afterwards."""
        kept = [p.detach().clone() for p in self.parameters]
        torch._foreach_add_([p.data for p in self.parameters], self._step())
        try:
            yield
        finally:
            torch._foreach_copy_([p.data for p in self.parameters], kept)

    @torch.no_grad()
    def _step(self) -> list[Tensor]:
        """A gradient of 0, or one that overflowed under an fp16 scaler, points nowhere: then the step is 0."""
        gradient = self.gradient.matrix[0].nan_to_num(posinf=0.0, neginf=0.0)
        length = self.radius * torch.stack([p.norm() for p in self.grown]).norm()
        return self.gradient.views(-length / gradient.norm().clamp_min(torch.finfo().tiny) * gradient)
