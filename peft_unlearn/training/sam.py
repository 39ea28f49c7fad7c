"""Sharpness-aware minimization against relearning: the forget loss is also taken where a first step of relearning would bring the adapter.

SAM is by Foret et al. (2021, arXiv 2010.01412), brought to unlearning by Fan et al. (2025, arXiv 2502.05374). Theirs steps up the forget loss of
the same batch. Here the step learns the rows of the step before, and the loss is of others: an attack learns some texts and asks for the rest.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn


class Sam:
    """Two steps make a turn: one gathers the gradient of the forget set's cross-entropy, the other has its forget loss a step down that gradient.

    Args:
        parameters: of the adapter that is trained.
        grown: those of them that say how far the adapter has come, by their distance from where they are now: the B factors.
        rho: length of the step, as a share of that distance.
        dtype: of the `gradient` (n,), a sum over micro-batches.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], grown: Iterable[nn.Parameter], rho: float, dtype: torch.dtype | None = None):
        self.parameters, self.grown, self.rho = list(parameters), list(grown), rho
        self.start = [p.detach().clone() for p in self.grown]  # 0 for a new adapter, but not with orthogonal init or a continued one
        self.gradient = torch.zeros(sum(p.numel() for p in self.parameters), dtype=dtype, device=self.parameters[0].device)

    def end(self, *, perturbed: bool) -> None:
        """A step has ended: a `perturbed` one, and the gradient has been used; or it has been gathered, by each process from its own rows."""
        if perturbed:
            self.gradient.zero_()
        elif torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.gradient)

    @contextlib.contextmanager
    def perturbed(self) -> Iterator[None]:
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
        gradient = self.gradient.to(self.parameters[0].dtype).nan_to_num(posinf=0.0, neginf=0.0)
        length = self.rho * torch.stack([(p - start).norm() for p, start in zip(self.grown, self.start, strict=True)]).norm()
        step = -length / gradient.norm().clamp_min(torch.finfo().tiny) * gradient
        return [piece.view_as(p) for piece, p in zip(step.split([p.numel() for p in self.parameters]), self.parameters, strict=True)]

    def state_dict(self) -> dict[str, Tensor]:
        """The gradient that the next step uses. Where the adapter started is not kept: a resumed run makes the same adapter again."""
        return {"gradient": self.gradient}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the gradient of a `state_dict`."""
        self.gradient.copy_(state["gradient"])
