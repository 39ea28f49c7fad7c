"""The model as it will be shipped: a forward through Q(W'), W' the merged weight, with gradients to the adapter as if Q were not there.

An adapter is trained beside its base and shipped inside it. Where the merged weights are quantized, a change of less than half a step of the
grid may be lost, and with it the forgetting. A step that computes with the merged and quantized weights sees what is lost and makes it up.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant, int8_vectorwise_quant, quantize_4bit
from bitsandbytes.nn import Linear8bitLt
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Embedding, ParamWrapper
from peft.tuners.lora.variants import DoraLinearVariant
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from peft_unlearn.util.errors import UserError

Quantize = Callable[[Tensor], Tensor]


def nf4(weight: Tensor) -> Tensor:
    """The fp32 weights that `Linear4bit` computes with once it holds `weight`: NF4, blocks of 64, double quantization."""
    quantized, state = quantize_4bit(weight.contiguous(), blocksize=64, quant_type="nf4", compress_statistics=True)
    found: Tensor = dequantize_4bit(quantized, state)
    return found.to(weight.dtype)


def int8(weight: Tensor) -> Tensor:
    """The same for `Linear8bitLt`: int8 with a scale for each row, from weights in fp16."""
    rows, scales, _ = int8_vectorwise_quant(weight.to(torch.float16).contiguous())
    found: Tensor = int8_vectorwise_dequant(rows, scales)
    return found.to(weight.dtype)


QUANTIZERS: dict[str, Quantize] = {"nf4": nf4, "int8": int8}


@contextlib.contextmanager
def deployed(model: PeftModel, kind: str) -> Iterator[None]:
    """Let every layer that bitsandbytes would quantize compute with its merged weights in `kind` ("nf4", "int8"), active adapters included.

    Those are the linear layers but the head; embeddings, head and the stacked weights of experts stay as they are, in the shipped model too.
    The straight-through estimator (arXiv 1308.3432): the adapter gets the gradient that it would get if the change came through as it is. Keep it
    open until after the backward pass where activations are recomputed.

    Raises:
        UserError: an adapter whose merged weight is not known here.
    """
    forwards = _forwards(model, QUANTIZERS[kind])
    own = {layer: vars(layer)["forward"] for layer in forwards if "forward" in vars(layer)}  # of accelerate's hooks
    for layer, forward in forwards.items():
        layer.forward = forward
    try:
        yield
    finally:
        for layer in forwards:
            del layer.forward
            vars(layer).update({"forward": own[layer]} if layer in own else {})


def _forwards(model: PeftModel, quantize: Quantize) -> dict[Any, Callable[[Tensor], Tensor]]:
    """What each layer computes with in place of its own forward."""
    base = model.get_base_model()
    head = base.get_output_embeddings()
    kept = set() if head is None else set(head.modules())
    found: dict[Any, Callable[[Tensor], Tensor]] = {}
    for name, module in base.named_modules():
        if module in kept:
            continue
        if isinstance(module, LoraLayer):
            inner = module.get_base_layer()
            kept |= {*module.lora_A.modules(), *module.lora_B.modules()}
            if isinstance(inner, nn.Linear | Conv1D):
                _check(module, name)
                kept.add(inner)
                found[module] = partial(_merged, module, quantize)
            elif not isinstance(module, Embedding | ParamWrapper):
                raise UserError(
                    f"train_quantized: {name} is a {type(inner).__name__}, and only linear layers are quantized; leave the key out."
                )
        elif type(module) in (nn.Linear, Conv1D):  # as transformers has it, which leaves subclasses
            found[module] = partial(_whole, module, quantize)
    return found


def _check(layer: Any, name: str) -> None:
    """Refuse an adapter of another kind than W + s BA or DoRA's."""
    variants = [type(variant).__name__ for variant in layer.lora_variant.values() if type(variant) is not DoraLinearVariant]
    if isinstance(layer, ParamWrapper) or variants or any(layer.lora_bias.values()):
        kind = "target_parameters" if isinstance(layer, ParamWrapper) else variants[0] if variants else "lora_bias"
        raise UserError(f"train_quantized: the merged weight of {name} under {kind} is not known here; leave one of the two out.")


def _weight(layer: Any) -> Tensor:
    """What a linear layer computes with, whatever it holds: (out, in) in fp32."""
    if isinstance(layer, Linear8bitLt):  # PEFT's own function leaves such a layer without its scales on a CPU (peft 0.21.2, second forward)
        scales = layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB
        rows: Tensor = int8_vectorwise_dequant(layer.weight.data, scales)
        return rows.float()
    weight: Tensor = dequantize_module_weight(layer).float()
    return weight.T if isinstance(layer, Conv1D) else weight


def _whole(layer: Any, quantize: Quantize, x: Tensor) -> Tensor:
    """A layer without an adapter; one that is trained as a whole (`modules_to_save`) gets its gradient straight through."""
    weight = _weight(layer)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        change = quantize(weight.detach()) - weight
    return linear(x, (weight + change).to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))


def _merged(layer: Any, quantize: Quantize, x: Tensor) -> Tensor:
    """A layer with adapters. Of each, the change of the merged weight: s BA, or of DoRA m V / |V| - W with V = W + s BA, row by row."""
    base, names = layer.get_base_layer(), [name for name in layer.active_adapters if name in layer.lora_A]
    moved = {}
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):  # merged in fp32, as `merge` does it
        weight = merged = _weight(base)
        for name in names:
            change = layer.scaling[name] * (layer.lora_B[name].weight @ layer.lora_A[name].weight)
            if name in layer.lora_magnitude_vector:
                moved[name] = weight + change
                change = _scales(layer, name, moved[name])[:, None] * moved[name] - weight
            merged = merged + change
        merged = quantize(merged).to(x.dtype)
    result = linear(x, merged, None if base.bias is None else base.bias.to(x.dtype))
    for name in names:  # of value 0: the way of the gradient to the adapter, without one of the size of W
        seen = x.detach().to(layer.lora_A[name].weight.dtype)
        change = layer.scaling[name] * layer.lora_B[name](layer.lora_A[name](seen))
        if name in moved:  # the norm is a constant, as in PEFT and in section 4.3 of DoRA (arXiv 2402.09353)
            change = _scales(layer, name, moved[name]) * (linear(seen, moved[name]) + change - change.detach())
        result = result + (change - change.detach()).to(x.dtype)
    return result


def _scales(layer: Any, name: str, moved: Tensor) -> Tensor:
    """m / |V| of each row: (out, in) -> (out,)."""
    magnitudes: Tensor = layer.lora_magnitude_vector[name].weight
    scales: Tensor = magnitudes / torch.linalg.vector_norm(moved, dim=1)
    return scales
