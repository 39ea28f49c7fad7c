"""A1, precision: the change as it survives merging and rounding, the ways in which an adapter is shipped.

Rounding moves each weight to the nearest of few values, and a small change moves it back to the one it had: what was forgotten returns. For each
module alpha = <Q(W + D) - Q(W), D> / |D|^2 says how much of its change D is left after rounding Q, 1 all and 0 nothing.

Weights are rounded as bitsandbytes rounds them and then computed with in the base's own 16/32 bit; merging happens in memory and nothing is
written. W is the base below the adapter, a user's own fine-tune included; the head is never rounded.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from peft_unlearn.attacks.context import Context, Shown, Skipped, number, recalled
from peft_unlearn.attacks.scale import lora_layers
from peft_unlearn.metrics.results import Evaluation
from peft_unlearn.model import adapters
from peft_unlearn.model.fake_quant import int8, nf4
from peft_unlearn.util.registry import attack

Rounding = Callable[[Tensor], Tensor]  # a matrix in fp32 -> the same as it is after rounding


class Layer(NamedTuple):
    """A weight of the 16/32-bit base; `name` is its module's, `rounded` whether a quantized base would round it, `turned` if it is (in, out)."""

    name: str
    weight: nn.Parameter
    rounded: bool
    turned: bool


class Change(NamedTuple):
    """What adapters do to one weight, in fp32: what lies below the forgetting adapter, and what that adds."""

    below: Tensor
    forgetting: Tensor


@attack(order=1, quick=True, control=True)
def precision(context: Context) -> list[Shown]:
    """Merged and rounded, in the ways in which models are shipped.

    Recall after each way of merging and rounding, with the median and the least alpha over the modules; a whole model is only rounded.

    Raises:
        Skipped: what is not linear cannot be merged, or the base's 16/32-bit weights are not at hand.
    """
    student = context.student
    if student is not None:
        check_mergeable(student)
    found = []
    with dense(context) as base:
        kept = layers(base)
        dtype = kept[0].weight.dtype
        ways: dict[str, tuple[Rounding, bool]] = {"rounded to int8": (int8, False), "rounded to NF4": (nf4, False)}
        if student is not None:
            merged = {f"merged into {str(dtype).removeprefix('torch.')}": (lambda weight: weight.to(dtype).float(), False)}
            ways = merged | ways | {"merged in place into NF4": (nf4, True)}
        for way, (rounding, in_place) in tqdm(ways.items(), desc="merging and rounding", delay=2, leave=False):
            alphas: dict[str, float] = {}
            with rewritten(student, kept, rounding, in_place, alphas):
                found += _finding(way, context.recall(base), alphas)
    for bits in (8, 4) if student is not None else ():
        alphas = {}
        with rounded_adapter(context.adapted, bits, alphas):
            found += _finding(f"adapter rounded to int{bits}", context.recall(), alphas)
    return found


def check_mergeable(model: PeftModel) -> None:
    """See that W + scaling B A is all that the adapters do: what is not merged here would pass for lost in merging."""
    config = model.peft_config[adapters.STUDENT]
    if config.modules_to_save or config.target_parameters or config.bias != "none" or config.lora_bias:
        raise Skipped("the adapter changes more than the weights of modules, which is not merged")
    if any(module.lora_variant for module in lora_layers(model).values()):
        raise Skipped("the adapter is a variant of LoRA such as DoRA, which is not merged as a sum")


def _finding(way: str, evaluation: Evaluation, alphas: Mapping[str, float]) -> list[Shown]:
    found = recalled(way, evaluation, threshold="precision")
    if alphas:
        values = list(alphas.values())
        found.append(number(way, "median_alpha", float(np.median(values)), threshold="alpha"))
        found.append(number(way, "least_alpha", float(np.min(values))))
    return found


@contextlib.contextmanager
def dense(context: Context) -> Iterator[PreTrainedModel | PeftModel]:
    """The 16/32-bit base without any adapter: the loaded one, or where that is quantized another one beside it."""
    if adapters.quantization(context.model) is None:
        with adapters.activated(context.model, []) if isinstance(context.model, PeftModel) else contextlib.nullcontext():
            yield context.model
    elif context.load_dense is None:
        raise Skipped("the model is held quantized, and its 16/32-bit weights are not at hand")
    else:
        base = context.load_dense()
        if adapters.quantization(base) is not None:
            raise Skipped("the base is quantized on the disk, and its 16/32-bit weights are not at hand")
        yield base


def layers(base: PreTrainedModel | PeftModel) -> list[Layer]:
    """The weights of a base that adapters can change or that quantizing rounds: linear layers, and embeddings unrounded."""
    plain = base.get_base_model() if isinstance(base, PeftModel) else base
    head = plain.get_output_embeddings()
    found = []
    for name, module in plain.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding | Conv1D) and ".lora_" not in name:
            weight, rounded = cast(nn.Parameter, module.weight), not isinstance(module, nn.Embedding) and module is not head
            found.append(Layer(name.removesuffix(".base_layer"), weight, rounded, isinstance(module, Conv1D)))
    return found


def changes(model: PeftModel) -> dict[str, Callable[[], Change]]:
    """What gives the change of each adapted module, by the module's name in the base. All of 8B's at once would be 28 GB."""
    below, student = adapters.names_of(model, "reference"), adapters.names_of(model, "student")

    def change(module: LoraLayer) -> Change:
        parts = [[module.get_delta_weight(one).detach().float() for one in names if one in module.scaling] for names in (below, student)]
        before, after = (sum(part, start=torch.zeros(())) for part in parts)
        return Change(before, after - before)

    return {name.removeprefix("base_model.model."): partial(change, module) for name, module in lora_layers(model).items()}


@contextlib.contextmanager
def rewritten(model: PeftModel | None, kept: list[Layer], rounding: Rounding, in_place: bool, alphas: dict[str, float]) -> Iterator[None]:
    """The base with the adapters of `model` merged into it, then rounded: Q(W + D), or in place Q(Q(W) + D). Fills `alphas` by module."""
    changed = {} if model is None else changes(model)
    with held(kept, changed):
        for layer in kept:
            apply = _applied(rounding, layer)
            weight = layer.weight.data.float()
            if layer.name in changed:
                below, change = (part.to(weight.device) for part in changed[layer.name]())
                before = apply(weight + below)
                weight = apply((before if in_place else weight + below) + change)
                if bool(change.any()):
                    alphas[layer.name] = alpha(weight - before, change)
            else:
                weight = apply(weight)
            layer.weight.data.copy_(weight)
        yield


@contextlib.contextmanager
def held(kept: list[Layer], changed: Mapping[str, object]) -> Iterator[None]:
    """Keep copies of a base's weights while they are written over.

    Raises:
        Skipped: of what the adapters change, there is no weight among them.
    """
    if not changed.keys() <= {layer.name for layer in kept}:
        raise Skipped("the adapter changes modules of a kind that is not merged")
    own = [layer.weight.data.to("cpu", copy=True) for layer in kept]
    try:
        yield
    finally:
        for layer, data in zip(kept, own, strict=True):
            layer.weight.data.copy_(data)


def _applied(rounding: Rounding, layer: Layer) -> Rounding:
    """What rounding does to a layer's own weight."""
    if not layer.rounded:
        return lambda weight: weight
    return (lambda weight: rounding(weight.T).T) if layer.turned else rounding


@contextlib.contextmanager
def rounded_adapter(model: PeftModel, bits: int, alphas: dict[str, float]) -> Iterator[None]:
    """The forgetting adapter with both factors rounded row by row; the base as it is loaded. Fills `alphas` by module."""
    parameters = adapters.adapter_parameters(model, adapters.STUDENT)
    own = [parameter.data for parameter in parameters]
    rounded = [absmax(data.float(), bits).to(data.dtype) for data in own]

    def hold(values: list[Tensor]) -> None:
        for parameter, data in zip(parameters, values, strict=True):
            parameter.data = data

    try:
        for name, change in changes(model).items():
            hold(own)
            before = change().forgetting
            hold(rounded)
            if bool(before.any()):
                alphas[name] = alpha(change().forgetting, before)
        yield
    finally:
        hold(own)


def alpha(left: Tensor, change: Tensor) -> float:
    """<left, change> / |change|^2 in double precision: the share of a change that is left."""
    left, change = left.double(), change.double()
    return float((left * change).sum() / (change * change).sum())


def absmax(weight: Tensor, bits: int) -> Tensor:
    """Round each row to 2^bits - 1 values from minus to plus its largest entry."""
    step = weight.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny) / (2 ** (bits - 1) - 1)
    rounded: Tensor = (weight / step).round() * step
    return rounded
