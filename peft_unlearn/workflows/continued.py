"""An adapter that is trained further stays what it is: what a recipe says of a new one is not read, and told."""

import logging
from typing import Any

from peft import LoraConfig

from peft_unlearn.config.unlearn_config import ModelArguments

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


def tell(model: ModelArguments, config: LoraConfig) -> None:
    """Warn of what a recipe asks for and the adapter has in another way."""
    unset = ModelArguments()
    asked = [key for key in CALLED if getattr(model, key) != getattr(unset, key)]
    if other := [key for key in asked if _plain(getattr(model, key)) != _plain(getattr(config, CALLED[key]))]:
        logger.warning(
            "Warning: %s: adapter_mode continue trains %s as it is and does not read that; leave it out, or write adapter_mode: stack.",
            ", ".join(other),
            model.adapter_name_or_path,
        )


def _plain(value: Any) -> Any:
    return set(value) if isinstance(value, list | set | tuple) else value
