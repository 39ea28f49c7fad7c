"""One merged weight: from the base's tensor to the tensors that are written, and what of the change is left in them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from peft_unlearn.merging import lora
from peft_unlearn.merging.base import Base
from peft_unlearn.merging.precision import Precision
from peft_unlearn.merging.survival import Survival, measure
from peft_unlearn.util.errors import UserError

BLOCK = 2**23  # entries of a weight that are in fp32 at a time: 32 MB for each of those that are added or compared


class Write(NamedTuple):
    """One weight to write: its name in the file, the base's tensor that it is made from, and the model's parameter that it becomes."""

    name: str
    source: str
    parameter: str | None


@dataclass(frozen=True)
class Merger:
    """updates: of the adapters, the lowest first; of the last one it is measured what survives."""

    base: Base
    updates: list[lora.Update]
    precision: Precision

    def merge(self, write: Write) -> tuple[dict[str, torch.Tensor], Survival | None]:
        """The tensors to write, and what survives of the change that the last adapter makes to them, if it makes one.

        Raises:
            UserError: a value that is not finite, from an adapter that diverged or a dtype that cannot hold it.
        """
        start, held, parameter = self.precision.start, self.precision.held, write.parameter
        name = parameter or write.source  # that of a part is its own
        weight = self.base.read(write.source, parameter)
        dtype = held.dtype if held.dtype is not None and weight.is_floating_point() else weight.dtype
        if start is not None:
            weight = start.get(write.source, parameter, start.put(write.source, parameter, weight))
        if not any(name in update.names for update in self.updates):
            return held.put(write.name, parameter, weight.to(dtype)), None
        tensors = held.put(write.name, parameter, rounded(weight, name, self.updates, dtype))
        if name not in self.updates[-1].names:
            return tensors, None
        below = self.updates[:-1]
        without = held.get(write.name, parameter, held.put(write.name, parameter, rounded(weight, name, below, dtype)))
        with_it = held.get(write.name, parameter, tensors)
        return tensors, measure(
            (
                lora.applied(weight, name, below, rows),
                lora.applied(weight, name, self.updates, rows),
                without[rows].float(),
                with_it[rows].float(),
            )
            for rows in row_blocks(weight)
        )


def rounded(weight: torch.Tensor, name: str, updates: list[lora.Update], dtype: torch.dtype) -> torch.Tensor:
    """The parameter after the updates, in `dtype`; the tensor itself where nothing changes it.

    Raises:
        UserError: a value that is not finite.
    """
    if not any(name in update.names for update in updates):
        return weight.to(dtype)
    new = torch.empty(weight.shape, dtype=dtype)
    for rows in row_blocks(weight):
        new[rows] = lora.applied(weight, name, updates, rows)
        if not torch.isfinite(new[rows]).all():
            raise UserError(f"adapter: merged into {name} it gives values that are not finite in {dtype}; write --to fp32, or train again.")
    return new


def row_blocks(weight: torch.Tensor) -> Iterator[slice]:
    step = max(1, BLOCK // max(1, weight[0].numel()))
    return (slice(i, i + step) for i in range(0, len(weight), step))
