"""bitsandbytes weights as files: which weights a config quantizes, the tensors that stand for one, and the weight that these are worth.

All of it by bitsandbytes' and transformers' own functions, so that a folder holds what `save_pretrained` of a quantized model writes.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, int8_vectorwise_dequant
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import AutoHfQuantizer

from peft_unlearn.util.errors import UserError

KINDS = ("nf4", "int8")
BLOCK, NESTED_BLOCK = 64, 256  # weights under one 4-bit scale, and scales under one scale of their own: bitsandbytes' defaults
BESIDE = re.compile(r"(.+\.weight)\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+)|(.+)\.(?:SCB|weight_format)")


@dataclass(frozen=True)
class Format:
    """How a folder holds the weights of a model.

    Args:
        dtype: of every floating-point tensor that is not quantized, and of what is quantized just before; None for each its own.
        config: of the quantized weights.
        transposed: the parameters that are quantized, and whether each lies transposed in the model (`Conv1D`).
    """

    dtype: torch.dtype | None = None
    config: BitsAndBytesConfig | None = None
    transposed: Mapping[str, bool] = field(default_factory=dict)

    def put(self, name: str, parameter: str | None, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors that stand for the model's `parameter` in a file, where it goes by `name`."""
        if self.dtype is not None and weight.is_floating_point():
            weight = weight.to(self.dtype)
        if parameter is None or parameter not in self.transposed:
            return {name: weight}
        made = quantize(weight.T if self.transposed[parameter] else weight, self.config)
        return {name.removesuffix("weight") + key: tensor for key, tensor in made.items()}

    def get(self, name: str, parameter: str | None, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weight that the tensors of `put` are worth, in the layout of the model."""
        if parameter is None or parameter not in self.transposed:
            return tensors[name]
        weight = dequantize({key.removeprefix(name.removesuffix("weight")): tensor for key, tensor in tensors.items()})
        return weight.T if self.transposed[parameter] else weight

    def size(self, parameter: str | None, shape: tuple[int, ...], itemsize: int) -> int:
        """Bytes that `put` makes of a tensor of that shape, whose entries have `itemsize` bytes in the base; an upper bound."""
        entries = math.prod(shape)
        if parameter not in self.transposed or self.config is None:
            return entries * (self.dtype.itemsize if self.dtype else itemsize)
        if self.config.load_in_8bit:
            return entries + 4 * max(shape) + 1
        blocks = -(-entries // BLOCK)
        scales = blocks + 4 * -(-blocks // NESTED_BLOCK) + 4 * 256 if self.config.bnb_4bit_use_double_quant else 4 * blocks
        return -(-entries // 2) + scales + 4 * 16 + 256  # the code of 16 values, and the state as JSON


def format_of(model: PreTrainedModel, config: BitsAndBytesConfig | None, dtype: torch.dtype | None) -> Format:
    """The format in which transformers holds `model`, loaded with `config`. It changes `model`, which lies on the meta device."""
    if config is None:
        return Format(dtype)
    AutoHfQuantizer.from_config(config, pre_quantized=False).preprocess_model(model=model, device_map=None)
    quantized = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit | Linear8bitLt)}
    return Format(dtype, config, {f"{name}.weight": issubclass(module.source_cls, Conv1D) for name, module in quantized.items()})


def config_for(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """What `kind` stands for: "nf4" with double quantization, computing in `dtype`, or "int8" (LLM.int8)."""
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)


def read_config(model_config: Mapping[str, Any]) -> BitsAndBytesConfig | None:
    """How the weights beside a config.json are quantized; None where they are not.

    Raises:
        UserError: quantized by something else than bitsandbytes.
    """
    found = model_config.get("quantization_config")
    if found is None:
        return None
    if not (found.get("load_in_4bit") or found.get("load_in_8bit")):
        method = found.get("quant_method", "an unknown method")
        raise UserError(
            f"base: its weights are quantized by {method}, which cannot be undone here; give the original 16-bit weights as --base."
        )
    return BitsAndBytesConfig.from_dict(found)


def kind_of(config: BitsAndBytesConfig) -> str:
    """ "nf4", "fp4" or "int8"."""
    return "int8" if config.load_in_8bit else config.bnb_4bit_quant_type


def quantize(weight: torch.Tensor, config: BitsAndBytesConfig) -> dict[str, torch.Tensor]:
    """The tensors of a linear layer whose weight (out, in) is quantized, by their names in the layer.

    Source: `Linear4bit` and `Linear8bitLt` of bitsandbytes, `_save_to_state_dict`.
    """
    if config.load_in_8bit:
        int8 = Int8Params(weight, requires_grad=False).to("cpu")
        return {"weight": int8.data, "SCB": int8.SCB, "weight_format": torch.tensor(0, dtype=torch.uint8)}  # 0: rows lie together
    packed = Params4bit(
        weight,
        requires_grad=False,
        compress_statistics=config.bnb_4bit_use_double_quant,
        quant_type=config.bnb_4bit_quant_type,
        quant_storage=config.bnb_4bit_quant_storage,
    ).to("cpu")
    return {"weight": packed.data} | {f"weight.{key}": tensor for key, tensor in packed.quant_state.as_dict(packed=True).items()}


def dequantize(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The weight (out, in) that `quantize`'s tensors are worth: of int8 in fp32, of 4 bit in the dtype that was quantized."""
    if "SCB" in tensors:
        found: torch.Tensor = int8_vectorwise_dequant(tensors["weight"], tensors["SCB"])
        return found
    state = {key.removeprefix("weight."): tensor for key, tensor in tensors.items() if key != "weight"}
    return dequantize_4bit(tensors["weight"], QuantState.from_dict(state, device=torch.device("cpu")))  # type: ignore[no-any-return]


def belongs_to(name: str) -> str | None:
    """The weight beside which a tensor of that name stands in a file, or None for a tensor of its own."""
    found = BESIDE.fullmatch(name)
    return None if found is None else found[1] or f"{found[2]}.weight"
