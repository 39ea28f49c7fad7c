"""A2, scale and detach: the adapter at another strength, without a quarter of its layers, or turned round against the base.

Half an adapter must not give most of it back: what it removed would hang by the last bit of its strength. Reversed guidance shows what base
and adapter tell together: log p_after + w (log p_before - log p_after), w above 1 beyond the base; its gain over the base is reported.
"""

import contextlib
import math
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from peft_unlearn.attacks.context import Context, Shown, number, recalled
from peft_unlearn.model import adapters
from peft_unlearn.util.registry import attack

SCALES = {False: (0.25, 0.5, 0.75, 1.5), True: (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)}
JUDGED = 0.5
WEIGHTS = {False: (1.5,), True: (1.25, 1.5, 2.0, 3.0)}


@attack(order=2, quick=True)
def scale(context: Context) -> list[Shown]:
    """Weaker or stronger adapter, without a quarter of its layers, reversed guidance."""
    model, found = context.adapted, []
    for factor in SCALES[context.full]:
        with scaled(model, factor):
            found += recalled(f"scale {factor:g}", context.recall(), threshold="scale" if factor == JUDGED else None)
    for part in quarters(model):
        with scaled(model, 0.0, part):
            which = f"layer {part[0]}" if len(part) == 1 else f"layers {part[0]} to {part[-1]}"
            found += recalled(f"without {which}", context.recall())
    before = context.plain["before"]["forget"]["extraction_strength"]["mean"]
    for weight in WEIGHTS[context.full]:
        guided = context.recall(Guided(model, weight), batch_size=1)  # its logits are whole
        found += recalled(f"reversed guidance {weight:g}", guided)
        found.append(number(f"reversed guidance {weight:g}", "gain_over_before", guided["extraction_strength"]["mean"] - before))
    return found


@contextlib.contextmanager
def scaled(model: PeftModel, factor: float, layers: list[int] | None = None) -> Iterator[None]:
    """The forgetting adapter times `factor`, in all layers or in those of these numbers."""
    modules = [module for name, module in lora_layers(model).items() if layers is None or layer_number(name) in layers]
    own = [module.scaling[adapters.STUDENT] for module in modules]
    for module, scaling in zip(modules, own, strict=True):
        module.scaling[adapters.STUDENT] = scaling * factor
    try:
        yield
    finally:
        for module, scaling in zip(modules, own, strict=True):
            module.scaling[adapters.STUDENT] = scaling


def lora_layers(model: PeftModel) -> dict[str, LoraLayer]:
    """The modules that the forgetting adapter changes, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer) and adapters.STUDENT in module.scaling}


def layer_number(name: str) -> int | None:
    """The number of the transformer layer that a module lies in: the first number of its name; None of an embedding or a head."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def quarters(model: PeftModel) -> list[list[int]]:
    """The adapted layers' numbers in at most four runs of neighbors, about equally long."""
    numbers = sorted({found for name in lora_layers(model) if (found := layer_number(name)) is not None})
    size = math.ceil(len(numbers) / 4)
    return [numbers[start : start + size] for start in range(0, len(numbers), size)] if size else []


class Guided(nn.Module):
    """A model whose log-probabilities are log p_after + w (log p_before - log p_after), not normalized: scoring does that."""

    def __init__(self, model: PeftModel, weight: float) -> None:
        super().__init__()
        self.model, self.weight = model, weight
        self.device: torch.device = model.device

    def forward(self, **inputs: Any) -> SimpleNamespace:
        after = self.model(**inputs).logits.float().log_softmax(-1)
        with adapters.view(self.model, "reference"):
            before = self.model(**inputs).logits.float().log_softmax(-1)
        return SimpleNamespace(logits=after + self.weight * (before - after))
