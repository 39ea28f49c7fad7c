"""Bases that lie quantized on the disk: held as they are, brought to 16 bits while they are loaded, or refused in a sentence.

| quantized by | held |
| --- | --- |
| bitsandbytes | as it is |
| llama.cpp, in a GGUF file | in the dtype of the recipe, each weight what its numbers are worth |
| FP8 and MXFP8 in blocks, MXFP4, compressed-tensors | in the dtype of the recipe, each weight what its numbers are worth |
| AWQ, GPTQ, HQQ, AQLM, EETQ and torchao, if the package that each needs is installed | as it is |
| all else | not at all |
"""

import copy
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import get_hf_quantizer

from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.gguf import UNPACKED, is_gguf

DEQUANTIZED = ("fp8", "mxfp8", "mxfp4", "compressed-tensors")  # whose kernels have no backward pass, or none on every device
TRAINED = ("bitsandbytes", "awq", "gptq", "hqq", "aqlm", "eetq", "torchao")  # by transformers and PEFT, each with a package of its own
SIXTEEN = "give the base in 16 bits"


def method(config: PreTrainedConfig) -> str | None:
    """What quantized the weights as they are held; None for weights of 16 or 32 bits, also those that are `brought` there."""
    own = config.to_dict().get("quantization_config")
    return None if own is None or brought(config) else own.get("quant_method", "bitsandbytes")


def brought(config: PreTrainedConfig) -> str | None:
    """What quantized weights that are brought to 16 bits while they are loaded; None for others."""
    own = config.to_dict().get("quantization_config")
    return own["quant_method"] if isinstance(own, dict) and own.get("quant_method") in DEQUANTIZED else None


def settled(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config with which transformers brings a base of `DEQUANTIZED` to 16 bits; another one as it is."""
    if brought(config):
        config = copy.deepcopy(config)
        config.quantization_config = {**config.to_dict()["quantization_config"], "dequantize": True}
    return config


def even(model: PreTrainedModel, dtype: str) -> None:
    """Bring every parameter to the dtype that was asked for: of FP8 transformers leaves what it does not dequantize in that of the config.

    Buffers stay: the frequencies of positions are in 32 bits.
    """
    if dtype != "auto":
        for parameter in model.parameters():
            parameter.data = parameter.data.to(getattr(torch, dtype))


def check(config: PreTrainedConfig, name: str | Path, quantization: Any = None, *, key: str = "model_name_or_path") -> None:
    """See that what quantized a base is installed, can be trained through, and goes together with the quantization that is asked for.

    Raises:
        UserError: a quantization that cannot be loaded or trained through here, or one on top of another.
    """
    own = config.to_dict().get("quantization_config")
    if own is None and quantization is None:
        return
    by = (own or {}).get("quant_method", "bitsandbytes")
    asked = "load_in_8bit" if quantization is not None and quantization.load_in_8bit else "load_in_4bit"
    if is_gguf(name):
        raise UserError(f"{asked}: {UNPACKED.format(str(name))}.")
    if (
        own is not None and quantization is not None and (by != "bitsandbytes" or not own.get(asked))
    ):  # transformers would load it in its own bits
        raise UserError(f"{asked}: {str(name)!r} is quantized otherwise by {by} already; leave the key out, or {SIXTEEN}.")
    with boundary(f"{key}: {str(name)!r} is quantized by {by} and cannot be loaded here", SIXTEEN):
        if by not in (*DEQUANTIZED, *TRAINED):
            raise ValueError("no adapter can be trained on that")
        device = {"": PartialState().device.type}
        quantizer, *_ = get_hf_quantizer(type(config).from_dict(config.to_dict()), quantization, device, True, {})
        if by in TRAINED and not quantizer.is_trainable:
            raise ValueError("no adapter can be trained on this form of it")
