"""FRAG: whether the change lies where forget text is active, or where retain text is. No attack, but a number that foretells one.

With x the inputs of a linear layer, F_j = mean over the forget set's tokens of x_j^2 is how much column j of its weight matters there, R_j the same
of the retain set, and D the change: FRAG = cos(F, D^2) - cos(R, D^2), entry by entry over all layers. Across methods, less came back under
relearning where it was higher (Spearman -.78). Source: arXiv 2608.25429.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from peft import PeftModel
from torch import Tensor, nn

from peft_unlearn.attacks.context import Context, Shown, Skipped, number
from peft_unlearn.attacks.precision import changes, check_mergeable
from peft_unlearn.attacks.scale import lora_layers
from peft_unlearn.data.rows import Row
from peft_unlearn.model import adapters
from peft_unlearn.model.lm_head import forward
from peft_unlearn.model.scoring import evaluating, labeled, longest_first, padded
from peft_unlearn.util.registry import attack


@attack(order=6, quick=True)
def frag(context: Context) -> list[Shown]:
    """Where the change lies: in what forget text activates, or in what retain text does.

    Both cosines and their difference; the activations are those before forgetting.

    Raises:
        Skipped: there is no retain set, or the adapter is none of plain sums on linear layers.
    """
    model = context.adapted
    check_mergeable(model)
    if "retain" not in context.probes:
        raise Skipped("there is no retain set")
    with adapters.view(model, "reference"):
        importance = {name: squares(model, context.probes[name].rows, context.batch_size) for name in ("forget", "retain")}
    cosines = {name: cosine(model, columns) for name, columns in importance.items()}
    what = "the change's squares beside the inputs' squares"
    return [
        *(number(what, f"cosine_{name}", value) for name, value in cosines.items()),
        number(what, "frag", cosines["forget"] - cosines["retain"]),
    ]


def squares(model: PeftModel, rows: Sequence[Row], batch_size: int) -> dict[str, Tensor]:
    """Mean of x_j^2 over all tokens of `rows`, by adapted linear layer's name: (columns,) in fp64, under the active adapters."""
    sums: dict[str, Tensor] = {}
    found, tokens = labeled(rows), 0
    with evaluating(model), _listening(model, sums) as batch_mask:
        for batch in longest_first(found, batch_size):
            inputs = padded(model, [found[i] for i in batch])
            batch_mask[:] = [inputs["attention_mask"].bool()]
            forward(model, **inputs)
            tokens += int(inputs["attention_mask"].sum())
    return {name: total / tokens for name, total in sums.items()}


@contextlib.contextmanager
def _listening(model: PeftModel, sums: dict[str, Tensor]) -> Iterator[list[Tensor]]:
    """Sum up what goes into each adapted linear layer, at the places of a mask that the caller puts into the list."""
    mask: list[Tensor] = []

    def listen(name: str) -> Any:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen = inputs[0].detach()[mask[0]].double().square().sum(0)
            sums[name] = sums[name] + seen if name in sums else seen

        return add

    hooks = [
        module.register_forward_pre_hook(listen(name.removeprefix("base_model.model.")))
        for name, module in lora_layers(model).items()
        if adapters.STUDENT in module.lora_B
    ]
    try:
        yield mask
    finally:
        for hook in hooks:
            hook.remove()


def cosine(model: PeftModel, columns: dict[str, Tensor]) -> float:
    """cos(F, D^2) over the entries of all layers, F the same in every row of a weight; never more than one layer's change at a time."""
    products = importances = fourths = 0.0
    turned = {
        name.removeprefix("base_model.model."): bool(getattr(module, "fan_in_fan_out", False))
        for name, module in lora_layers(model).items()
    }
    for name, change in changes(model).items():
        if name in columns:
            squared = change().forgetting.double().square()
            squared = squared.T if turned[name] else squared  # (rows, columns)
            column = columns[name].to(squared.device)
            products += float(squared.sum(0) @ column)
            importances += len(squared) * float(column @ column)
            fourths += float(squared.square().sum())
    length = math.sqrt(importances * fourths)
    return products / length if length else math.nan
