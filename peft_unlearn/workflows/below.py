"""An adapter that is there already: the tokenizer that its folder brings, and what a recipe asks of it and cannot have."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import CHAT_TEMPLATE_FILE

from peft_unlearn.config.unlearn_config import ModelArguments
from peft_unlearn.model import loading, prequantized, saved
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import has_file

logger = logging.getLogger(__name__)

# Keys of a new adapter, and what they are called in the config of one that is there already.
CALLED = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": "target_modules",
    "lora_target_parameters": "target_parameters",
    "lora_modules_to_save": "modules_to_save",
    "use_dora": "use_dora",
    "use_rslora": "use_rslora",
}


def tokenizer(model: ModelArguments, adapters: Sequence[str], *, key: str) -> PreTrainedTokenizerBase:
    """The tokenizer in the folder of the first of these adapters that has one, else the base's, with a chat template that lies there alone.

    Raises:
        UserError: none that works.
    """
    if brings := next((one for one in adapters if has_file(one, TOKENIZER_CONFIG_FILE)), None):
        logger.info("The tokenizer is that of %s, with its chat template if it has one.", brings)
        return loading.tokenizer(brings, key="adapter_name_or_path")
    found = loading.tokenizer(model.model_name_or_path or "", revision=model.model_revision, key=key)
    if brings := next((one for one in adapters if (Path(one) / CHAT_TEMPLATE_FILE).is_file()), None):
        logger.info("The chat template is that of %s.", brings)
        found.chat_template = (Path(brings) / CHAT_TEMPLATE_FILE).read_text(encoding="utf-8", errors="replace")
    return found


def check(base: PreTrainedConfig, model: ModelArguments) -> None:
    """Warn of what a recipe says of a new adapter where it has the one below trained further, which stays what it is.

    Raises:
        UserError: an adapter to be merged into weights that are quantized themselves.
    """
    if model.adapter_mode == "merge" and prequantized.method(base):
        raise UserError(
            f"adapter_mode: 'merge' into {model.model_name_or_path!r}, which is quantized itself, would lose most of the adapter, write stack, "
            "or give the base in 16 bits."
        )
    if model.adapter_mode == "continue":
        _tell_what_is_not_read(model)


def _tell_what_is_not_read(model: ModelArguments) -> None:
    adapter = model.adapter_name_or_path or ""
    unset, config = ModelArguments(), saved.config_of(adapter, key="adapter_name_or_path")
    asked = [key for key in CALLED if getattr(model, key) != getattr(unset, key)]
    if other := [key for key in asked if _plain(getattr(model, key)) != _plain(getattr(config, CALLED[key]))]:
        logger.warning(
            "Warning: %s: adapter_mode continue trains %s as it is and does not read that; leave it out, or write adapter_mode: stack.",
            ", ".join(other),
            adapter,
        )


def _plain(value: Any) -> Any:
    return set(value) if isinstance(value, list | set | tuple) else value
