"""The model as it will be shipped: a forward through Q(W + s BA), with gradients to the adapter as if Q were not there.

An adapter is trained beside its base and shipped inside it. Where the merged weights are quantised, a change of less than half a step of the
grid may be lost, and with it the forgetting. A step that computes with the merged and quantised weights sees what is lost and makes it up.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant, int8_vectorwise_quant, quantize_4bit
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from torch.nn.functional import linear


def nf4(weight: Tensor) -> Tensor:
    """The fp32 weights that `Linear4bit` computes with once it holds `weight`: NF4, blocks of 64, double quantisation."""
    quantised, state = quantize_4bit(weight.contiguous(), blocksize=64, quant_type="nf4", compress_statistics=True)
    return dequantize_4bit(quantised, state).to(weight.dtype)


def int8(weight: Tensor) -> Tensor:
    """The same for `Linear8bitLt`: int8 with a scale for each row, from weights in fp16."""
    rows, scales, _ = int8_vectorwise_quant(weight.to(torch.float16).contiguous())
    return int8_vectorwise_dequant(rows, scales).to(weight.dtype)


QUANTISERS = {"nf4": nf4, "int8": int8}


@contextlib.contextmanager
def deployed(model: nn.Module, kind: str) -> Iterator[None]:
    """Let every adapted linear layer compute with its merged weights in `kind` ("nf4", "int8"), active adapters included.

    The straight-through estimator (arXiv 1308.3432): A and B get the gradient that they would get if the change came through as it is. Keep it
    open until after the backward pass where activations are recomputed.
    """
    layers: list[Any] = [
        module for module in model.modules() if isinstance(module, LoraLayer) and isinstance(module.get_base_layer(), nn.Linear)
    ]
    for layer in layers:
        layer.forward = partial(_forward, layer, QUANTISERS[kind])
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: Any, quantise: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    base, names = layer.get_base_layer(), [name for name in layer.active_adapters if name in layer.lora_A]
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):  # merged in fp32, as `merge` does it
        weight = dequantize_module_weight(base).float()  # what the layer computes with, whatever it holds
        for name in names:
            weight = weight + layer.scaling[name] * (layer.lora_B[name].weight @ layer.lora_A[name].weight)
        weight = quantise(weight).to(x.dtype)
    result = linear(x, weight, None if base.bias is None else base.bias.to(x.dtype))
    for name in names:  # of value 0: the way of the gradient to A and B, without one of the size of W
        change = layer.scaling[name] * layer.lora_B[name](layer.lora_A[name](x.detach().to(layer.lora_A[name].weight.dtype)))
        result = result + (change - change.detach()).to(x.dtype)
    return result
