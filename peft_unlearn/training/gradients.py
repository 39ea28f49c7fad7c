"""The gradients of several objectives over the adapter, as the rows of one flat matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CHUNK = 1 << 20  # columns converted to fp64 at a time


class Gradients:
    """An (m, n) fp32 matrix G: one row for each objective, one column for each adapter parameter.

    Autograd accumulates straight into it: `into(k)` makes every `p.grad` a view of row k, over as many micro-batches as a step has.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], objectives: int):
        self.parameters = list(parameters)
        sizes = [p.numel() for p in self.parameters]
        self.matrix = torch.zeros(objectives, sum(sizes), device=self.parameters[0].device)
        self._sizes = sizes
        self._rows = [self.views(row) for row in self.matrix]

    def views(self, flat: Tensor) -> list[Tensor]:
        """The (n,) tensor `flat` in the parameters' shapes."""
        return [piece.view_as(p) for piece, p in zip(torch.split(flat, self._sizes), self.parameters, strict=True)]

    def into(self, objective: int) -> None:
        """Let the next backward pass add to row `objective`."""
        self._set(self._rows[objective])

    def set(self, flat: Tensor) -> list[Tensor]:
        """Make the (n,) tensor `flat` the gradient of the parameters, and return its views."""
        return self._set(self.views(flat))

    def _set(self, views: list[Tensor]) -> list[Tensor]:
        for p, view in zip(self.parameters, views, strict=True):
            p.grad = view
        return views

    def gramian(self) -> Tensor:
        """GG' in fp64, (m, m)."""
        return torch.stack([c @ c.T for c in map(Tensor.double, torch.split(self.matrix, CHUNK, dim=1))]).sum(0)

    def combined(self, weights: Tensor) -> Tensor:
        """w'G in fp32, (n,), for fp64 weights of shape (m,).

        Summed in fp64: nearly parallel gradients get weights of 1e5 and opposite signs from `mollm`, and an fp32 sum of them can ascend.
        """
        weights = weights.to(self.matrix.device)
        return torch.cat([(weights @ c.double()).float() for c in torch.split(self.matrix, CHUNK, dim=1)])
