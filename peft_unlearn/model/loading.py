"""A base as the libraries load it: config, tokenizer, the model without weights, the model. What they raise is a sentence with its key."""

import copy
import logging
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.model import files, gguf, prequantized
from peft_unlearn.model.files import AGAIN
from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import ADAPTER_CONFIG
from peft_unlearn.util.gguf import SUFFIX, is_gguf, located

logger = logging.getLogger(__name__)

# Numbers of a config.json that transformers takes as they are, and below which there is no model.
FEWEST = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), 1),
    "max_position_embeddings": 2,
}
MOST = {"num_hidden_layers": 1000, **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size"), 10**7)}
PROBE = "Who is it?"


def config(name: str | Path, *, revision: str | None = None, key: str = "model_name_or_path") -> PreTrainedConfig:
    """The config of a model in a folder or on the Hub.

    Raises:
        UserError: none there, or one that is no config of a model.
    """
    if (Path(name) / ADAPTER_CONFIG).is_file() and not (Path(name) / "config.json").is_file():
        raise UserError(f"{key}: {str(name)!r} is an adapter, write its base there and it as adapter_name_or_path.")
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file() and (held := sorted(Path(name).glob(f"*{SUFFIX}"))):
        raise UserError(f"{key}: the folder {str(name)!r} holds GGUF files and no config.json; write the file itself, such as {held[0]}.")
    file = located(name, key=key, revision=revision) if is_gguf(name) else None
    with boundary(
        f"{key}: {str(name)!r} is no folder with a model's config.json, and no model on the Hub that answers",
        "write a folder or a Hub name of a causal language model that transformers can read",
    ):
        if file is not None:
            found = gguf.config(file, key=key)
        else:
            found = AutoConfig.from_pretrained(str(name), revision=revision or "main", trust_remote_code=False)
        text = {**found.to_dict(), **found.get_text_config().to_dict()}
    for size, fewest in FEWEST.items():
        if isinstance(text.get(size), int) and text[size] < fewest:
            raise UserError(
                f"{key}: {size} in the config.json of {str(name)!r} is {text[size]}, at least {fewest} is needed; fetch it again."
            )
    for number, value in _numbers_in(text):
        if value != value or (number.endswith(("eps", "epsilon", "theta")) and not 0 <= value < math.inf):  # NaN is not itself
            raise UserError(f"{key}: {number} in the config.json of {str(name)!r} is {value}, which is no number to compute with; {AGAIN}.")
    for size, most in MOST.items():
        if isinstance(text.get(size), int) and text[size] > most:
            raise UserError(f"{key}: {size} in the config.json of {str(name)!r} is {text[size]}, more than any model has; fetch it again.")
    return prequantized.settled(found)


def _numbers_in(values: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a config with the name that it stands under."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _numbers_in(value, str(key))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _numbers_in(value, name)
    elif isinstance(values, int | float) and not isinstance(values, bool):
        yield name, values


def tokenizer(name: str | Path, *, revision: str | None = None, key: str = "model_name_or_path") -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or on the Hub.

    Raises:
        UserError: none there, or one that does not work.
    """
    file = located(name, key=key, revision=revision) if is_gguf(name) else None
    with boundary(f"{key}: {str(name)!r} has no tokenizer that loads", "put the base's tokenizer files beside its weights"):
        found: PreTrainedTokenizerBase
        if file is not None:
            found = gguf.tokenizer(file)
        else:
            found = AutoTokenizer.from_pretrained(str(name), revision=revision or "main", trust_remote_code=False)
        tokens = found(PROBE)["input_ids"]
        found.decode(tokens)
        found.convert_tokens_to_ids(found.all_special_tokens)  # which never ends where <unk> is no token
        if min(found.get_vocab().values(), default=-1) < 0:
            raise ValueError("its vocabulary is empty, or has numbers below 0")
        return found


def check_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str | Path, *, key: str = "model_name_or_path") -> None:
    """See that a model has an entry for each token of its tokenizer.

    Raises:
        UserError: it has not.
    """
    entries = len(model.get_input_embeddings().weight)
    if max(tokenizer.get_vocab().values(), default=0) >= entries:
        raise UserError(
            f"{key}: {str(name)!r} has {entries} entries and its tokenizer tokens beyond them; "
            "give the model that the tokenizer is of, or save the adapter with its embeddings (save_embedding_layers)."
        )


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
            if attention == "flex_attention" and not torch.cuda.is_available():
                raise ValueError("FlexAttention has no backward pass on a CPU")
            AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation=attention)
    return model


def checked(
    config: PreTrainedConfig,
    name: str | Path,
    *,
    quantization: Any = None,
    attention: str | None = "eager",
    key: str = "model_name_or_path",
) -> PreTrainedModel:
    """The model of a config without weights, when all is right that can be seen before they are read.

    Raises:
        UserError: what `prequantized.check`, `skeleton` and `files.check` refuse.
    """
    prequantized.check(config, name, quantization, key=key)
    model = skeleton(config, name, attention=attention, key=key)
    files.check(model, name, key=key)
    return model


def base(name: str | Path, *, key: str = "model_name_or_path", **kwargs: Any) -> PreTrainedModel:
    """The model with all of its weights, as `from_pretrained` loads it with these arguments.

    Raises:
        UserError: what `checked` refuses and the library raises; or tensors that are missing, have another shape or are not finite.
    """
    how = {"quantization": kwargs.get("quantization_config"), "attention": kwargs.get("attn_implementation")}
    found = config(name, revision=kwargs.get("revision"), key=key)
    if dequantized := prequantized.brought(found):
        kwargs["config"] = found
    elif prequantized.method(found) not in (None, "bitsandbytes"):
        kwargs.setdefault("device_map", {"": PartialState().device})
    checked(copy.deepcopy(found), name, **how, key=key)  # which makes a skeleton of it, with an attention of its own
    with boundary(f"{key}: {str(name)!r} cannot be loaded", "write a local folder or a Hub name of a model in safetensors"):
        if is_gguf(name):
            load = partial(gguf.weights, located(name, key=key, revision=kwargs.get("revision")), found)
        else:
            load = partial(AutoModelForCausalLM.from_pretrained, str(name), trust_remote_code=False, use_safetensors=True)
        model, info = load(ignore_mismatched_sizes=True, output_loading_info=True, **kwargs)
    if dequantized:
        prequantized.even(model, kwargs.get("dtype", "auto"))
        logger.info("%s is quantized by %s, which no adapter can be trained on, and is held in %s.", name, dequantized, model.dtype)
    for tensor, shape, wanted in sorted(info["mismatched_keys"]):
        raise UserError(files.other_shape(key, name, tensor, shape, wanted))
    if missing := sorted(info["missing_keys"]):  # transformers would draw them at random
        raise UserError(files.missing(key, name, missing))
    for tensor, values in _numbers(model):
        if not torch.stack(torch.aminmax(values)).isfinite().all():
            raise UserError(f"{key}: tensor {tensor} of {str(name)!r} holds numbers that are not finite; {AGAIN}.")
    model.name_or_path = model.config._name_or_path = str(name)  # of a GGUF file transformers says its folder
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
        values = parameter.detach()
        if type(values) is not Tensor:  # a class of torchao's, which knows few operations
            continue
        if values.is_floating_point() and values.itemsize > 1 and values.numel() and values.device.type != "meta":
            yield name, values
    for name, module in model.named_modules():
        state = getattr(module.weight, "quant_state", None) if isinstance(module, Linear4bit) else None
        found = [] if state is None else [state.absmax, *([state.offset, state.state2.absmax] if state.nested else [])]
        found += [module.weight.SCB] if isinstance(module, Linear8bitLt) else []
        yield from ((f"{name}.weight", values) for values in found if isinstance(values, Tensor) and values.is_floating_point())
