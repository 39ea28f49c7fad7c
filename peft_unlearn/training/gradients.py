"""The gradients of several objectives over the adapter, as the rows of one flat matrix."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from peft_unlearn.config.unlearn_config import UnlearnConfig

CHUNK = 1 << 20  # columns converted to fp64 at a time


def dtype_of_sums(args: UnlearnConfig) -> torch.dtype:
    """In which the gradients of a step's micro-batches, in all processes together, are summed up.

    Two fp32 numbers have the same sum in either order. More have it, but for one case in millions, where they are summed in fp64 and rounded once.
    So it does not matter how many processes have shared them.
    """
    return torch.get_default_dtype() if args.gradient_accumulation_steps * args.world_size <= 2 else torch.float64


class Gradients:
    """An (m, n) matrix G of `dtype`: one row for each objective, one column for each adapter parameter.

    Every backward pass gives the parameters' `.grad`, flat, which is added to a row.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], objectives: int, dtype: torch.dtype | None = None):
        self.parameters = list(parameters)
        sizes = [p.numel() for p in self.parameters]
        self.matrix = torch.zeros(objectives, sum(sizes), dtype=dtype, device=self.parameters[0].device)
        self._flat = torch.zeros(sum(sizes), device=self.matrix.device)  # `.grad` of all parameters
        self._views = [piece.view_as(p) for piece, p in zip(torch.split(self._flat, sizes), self.parameters, strict=True)]

    @contextlib.contextmanager
    def into(self, row: Tensor) -> Iterator[None]:
        """Add what a backward pass within gives to `row` (n,), of this matrix or another; nothing of a pass that fails."""
        self._flat.zero_()
        self._give()
        yield
        row += self._flat

    def _give(self) -> None:
        for p, view in zip(self.parameters, self._views, strict=True):
            p.grad = view

    def gramian(self) -> Tensor:
        """GG' in fp64, (m, m)."""
        return torch.stack([c @ c.T for c in self._chunks()]).sum(0)

    def combine(self, weights: Tensor) -> list[Tensor]:
        """Make w'G the gradient of the parameters, for fp64 weights of shape (m,), and return it in their shapes.

        Summed in fp64: nearly parallel gradients get weights of 1e5 and opposite signs from `mollm`, and an fp32 sum of them can ascend.
        """
        weights = weights.to(self.matrix.device)
        for flat, c in zip(torch.split(self._flat, CHUNK), self._chunks(), strict=True):
            flat.copy_(weights @ c)
        self._give()
        return self._views

    def _chunks(self) -> Iterator[Tensor]:
        """Columns of G, in fp64, each sum rounded: what is left of its order in the last bit, the weights of nearly parallel gradients would lift."""
        return (c.float().double() for c in torch.split(self.matrix, CHUNK, dim=1))
