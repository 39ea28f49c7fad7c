"""A base as the libraries load it: config, tokenizer, the model without weights, the model. What they raise is a sentence with its key."""

import json
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.quantizers.auto import AutoHfQuantizer, get_hf_quantizer
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError

# Numbers of a config.json that transformers takes as they are, and below which there is no model.
FEWEST = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), 1),
    "max_position_embeddings": 2,
}
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


def check_weights(name: str | Path, config: PreTrainedConfig, quantization: Any = None, *, key: str = "model_name_or_path") -> None:
    """See, before any are read, that the weights lie in the model's folder, and that what quantized them is installed.

    Raises:
        UserError: an index that is none or that names files elsewhere, a quantization that cannot be loaded here or asked for on top.
    """
    index = Path(name) / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        with boundary(f"{key}: {str(index)!r} is no index of weights", "fetch the model again"):
            files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            outside = [file for file in files if Path(file).is_absolute() or ".." in Path(file).parts]
        if outside:
            raise UserError(f"{key}: {str(index)!r} names {outside[0]!r}, which lies outside of its folder; fetch the model again.")
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
    for tensor, *shapes in sorted(info["mismatched_keys"]):
        has, wants = (tuple(shape) for shape in shapes)
        raise UserError(f"{key}: tensor {tensor} of {str(name)!r} has shape {has} and its config.json says {wants}; {fetch}.")
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
    with boundary(f"{key}: {str(name)!r} is loaded and does not work", "fetch the model again, or write another one"):
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
