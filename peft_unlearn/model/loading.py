"""A base as the libraries load it: config, tokenizer, the model without weights, the model. What they raise is a sentence with its key."""

import json
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter
from transformers.quantizers.auto import AutoHfQuantizer, get_hf_quantizer
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError

# Numbers of a config.json that transformers takes as they are, and below which there is no model.
FEWEST = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), 1),
    "max_position_embeddings": 2,
}
MOST_LAYERS = 1000
PROBE = "Who is it?"


def config(name: str | Path, *, revision: str | None = None, key: str = "model_name_or_path") -> PreTrainedConfig:
    """The config of a model in a folder or on the Hub.

    Raises:
        UserError: none there, or one that is no config of a model.
    """
    with boundary(
        f"{key}: {str(name)!r} is no folder with a model's config.json, and no model on the Hub that answers",
        "write a folder or a Hub name of a causal language model that transformers can read",
    ):
        found = AutoConfig.from_pretrained(str(name), revision=revision or "main", trust_remote_code=False)
        text = {**found.to_dict(), **found.get_text_config().to_dict()}
    for size, fewest in FEWEST.items():
        if isinstance(text.get(size), int) and text[size] < fewest:
            raise UserError(
                f"{key}: {size} in the config.json of {str(name)!r} is {text[size]}, at least {fewest} is needed; fetch it again."
            )
    layers = text.get("num_hidden_layers")
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise UserError(f"{key}: the config.json of {str(name)!r} says {layers} layers, more than any model has; fetch it again.")
    return found


def tokenizer(name: str | Path, *, revision: str | None = None, key: str = "model_name_or_path") -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or on the Hub.

    Raises:
        UserError: none there, or one that does not work.
    """
    with boundary(f"{key}: {str(name)!r} has no tokenizer that loads", "put the base's tokenizer files beside its weights"):
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(name), revision=revision or "main", trust_remote_code=False)
        tokens = found(PROBE)["input_ids"]
        found.decode(tokens)
        if min(found.get_vocab().values(), default=-1) < 0:
            raise ValueError("its vocabulary is empty, or has numbers below 0")
        return found


def skeleton(
    config: PreTrainedConfig, name: str | Path, *, attention: str | None = "eager", key: str = "model_name_or_path"
) -> PreTrainedModel:
    """The causal language model of a config on the meta device, not quantized.

    Args:
        attention: the implementation that is to be had.

    Raises:
        UserError: another kind of model, sizes that do not go together, or an attention that is not installed.
    """
    with (
        boundary(
            f"{key}: {str(name)!r} is a {config.model_type}, and no causal language model of transformers that can be made",
            "write another base",
        ),
        torch.device("meta"),
    ):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation="eager")
    if attention not in (None, "eager"):
        with (
            boundary(f"attn_implementation: {attention!r} is not to be had for {str(name)!r}", "write sdpa or eager, or leave the key out"),
            torch.device("meta"),
        ):
            AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation=attention)
    return model


def check_files(model: PreTrainedModel, name: str | Path, *, key: str = "model_name_or_path") -> None:
    """See, by the headers of a local folder's weights alone, that they lie in it and have the shapes of `model`, which has none.

    Raises:
        UserError: an index that is none or that names files elsewhere, a damaged file, or a tensor of another shape than config.json says.
    """
    index = Path(name) / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        with boundary(f"{key}: {str(index)!r} is no index of weights", "fetch the model again"):
            files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            outside = [file for file in files if Path(file).is_absolute() or ".." in Path(file).parts]
        if outside:
            raise UserError(f"{key}: {str(index)!r} names {outside[0]!r}, which lies outside of its folder; fetch the model again.")
    put_together = any(isinstance(entry, WeightConverter) for entry in get_model_conversion_mapping(model))
    if put_together or model.config.to_dict().get("quantization_config"):
        return  # on loading they get other shapes
    wanted = model.state_dict()
    for file in sorted(Path(name).glob("model*.safetensors")):
        with boundary(f"{key}: {str(file)!r} does not open", "fetch the model again"), safe_open(file, framework="pt") as opened:
            headers = {tensor: opened.get_slice(tensor) for tensor in opened.keys() & wanted.keys()}
            found = {tensor: (list(header.get_shape()), header.get_dtype()) for tensor, header in headers.items()}
        for tensor, (shape, dtype) in sorted(found.items()):
            if shape != list(wanted[tensor].shape):
                raise UserError(_other_shape(key, name, tensor, shape, wanted[tensor].shape))
            if wanted[tensor].is_floating_point() and "F" not in dtype:  # transformers would cast it
                raise UserError(
                    f"{key}: tensor {tensor} of {str(name)!r} holds {dtype}, and its config.json says nothing of that; fetch the model again."
                )


def check_quantization(config: PreTrainedConfig, name: str | Path, quantization: Any = None, *, key: str = "model_name_or_path") -> None:
    """See that what quantized a base is installed, and goes together with the quantization that is asked for.

    Raises:
        UserError: a quantization that cannot be loaded here, or one on top of another.
    """
    own = config.to_dict().get("quantization_config")
    if own is None and quantization is None:
        return
    method = (own or {}).get("quant_method", "bitsandbytes")
    if quantization is not None and method != "bitsandbytes":
        asked = "load_in_8bit" if quantization.load_in_8bit else "load_in_4bit"
        raise UserError(f"{asked}: {str(name)!r} is quantized by {method} already; leave the key out, or give the base in 16 bits.")
    with boundary(f"{key}: {str(name)!r} is quantized by {method} and cannot be loaded here", "give the base in 16 bits"):
        if own is not None and not AutoHfQuantizer.supports_quant_method(own):
            raise ValueError("transformers does not know that")
        get_hf_quantizer(type(config).from_dict(config.to_dict()), quantization, {"": "cpu"}, True, {})


def _other_shape(key: str, name: str | Path, tensor: str, shape: Any, wanted: Any) -> str:
    return (
        f"{key}: tensor {tensor} of {str(name)!r} has shape {list(shape)} and its config.json says {list(wanted)}; fetch the model again."
    )


def base(name: str | Path, *, key: str = "model_name_or_path", **kwargs: Any) -> PreTrainedModel:
    """The model with all of its weights, as `from_pretrained` loads it with these arguments.

    Raises:
        UserError: what the library raises; or tensors that are missing, have another shape or are not finite.
    """
    fetch = "fetch the model again, or write another folder or Hub name"
    with boundary(f"{key}: {str(name)!r} cannot be loaded", "write a local folder or a Hub name of a model in safetensors"):
        model, info = AutoModelForCausalLM.from_pretrained(
            str(name), trust_remote_code=False, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True, **kwargs
        )
    for tensor, shape, wanted in sorted(info["mismatched_keys"]):
        raise UserError(_other_shape(key, name, tensor, shape, wanted))
    if missing := sorted(info["missing_keys"]):  # transformers would draw them at random
        raise UserError(f"{key}: {len(missing)} tensors are not in the weight files of {str(name)!r}, such as {missing[0]}; {fetch}.")
    for tensor, values in _numbers(model):
        if not torch.stack(torch.aminmax(values)).isfinite().all():
            raise UserError(f"{key}: tensor {tensor} of {str(name)!r} holds numbers that are not finite; {fetch}.")
    return model


@torch.no_grad()
def check_forward(model: PreTrainedModel, name: str | Path, *, key: str = "model_name_or_path") -> PreTrainedModel:
    """The model, after it has read two tokens.

    Raises:
        UserError: it cannot, or says what is no number: weights and config do not go together.
    """
    with boundary(f"{key}: {str(name)!r} is loaded and does not work", "fetch the model again, or write another one, or another dtype"):
        ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
        if not model(input_ids=ids, use_cache=False).logits.isfinite().all():
            raise ValueError("its logits are not finite")
    return model


def _numbers(model: nn.Module) -> Any:
    """Every tensor of floating-point numbers that weights are made of, those that bitsandbytes holds beside packed ones as well."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.itemsize > 1 and parameter.numel() and parameter.device.type != "meta":
            yield name, parameter.detach()
    for name, module in model.named_modules():
        state = getattr(module.weight, "quant_state", None) if isinstance(module, Linear4bit) else None
        found = [] if state is None else [state.absmax, *([state.offset, state.state2.absmax] if state.nested else [])]
        found += [module.weight.SCB] if isinstance(module, Linear8bitLt) else []
        yield from ((f"{name}.weight", values) for values in found if isinstance(values, Tensor) and values.is_floating_point())
