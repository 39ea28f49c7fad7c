"""A forgetting adapter kept away from earlier ones: it reads nothing of what their changes read.

An earlier change is B A, and what it reads of a layer's input lies in the span of A's rows. Where the new A is orthogonal to that span, the part of
an input that the earlier change acts on passes the new adapter by [orthogonal subspaces of LoRA, arXiv 2310.14152].
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from peft_unlearn.model.adapters import STUDENT
from peft_unlearn.model.saved import PREFIX


class Apart(TrainerCallback):  # type: ignore[misc]  # annotations of transformers are not followed
    """Takes the directions out of every A of the adapter, before the first step and after each.

    Args:
        directions: orthonormal rows (k, in) by the names of modules; others are left alone.
    """

    def __init__(self, directions: Mapping[str, Tensor]) -> None:
        self.directions = directions

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._take_out(model)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._take_out(model)

    @torch.no_grad()
    def _take_out(self, model: Any) -> None:
        parameters = dict(model.named_parameters())
        for name, rows in self.directions.items():
            a = parameters.get(f"{PREFIX}{name}.lora_A.{STUDENT}.weight")
            if a is not None:
                rows = rows.to(a)
                a -= (a @ rows.T) @ rows
