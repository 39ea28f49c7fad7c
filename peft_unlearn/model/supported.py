"""Which adapters can be trained here: what one changes must be all its own, and the same in every forward, or views are not what they are called."""

import dataclasses

from bitsandbytes.nn import Linear8bitLt
from peft import LoraConfig, PeftConfig
from torch import nn

from peft_unlearn.config.model_settings import KEEPS_BASE
from peft_unlearn.util.errors import UserError

# Inits of a saved adapter after which the base is as it was; with the others it belongs to a base that they changed.
LOADABLE = (*KEEPS_BASE, False, "eva")

# Fields of a config that may be set. Any other that is, changes the base or what is computed with it in a way that has not been tried.
KNOWN = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "runtime_config"),
    *("r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "fan_in_fan_out"),
    *("target_modules", "exclude_modules", "target_parameters", "layers_to_transform", "layers_pattern"),
    *("modules_to_save", "trainable_token_indices", "bias", "init_lora_weights"),  # the last two are looked at by themselves
    *(
        "eva_config",
        "corda_config",
        "loftq_config",
        "lora_ga_config",
        "megatron_core",
        "qalora_group_size",
    ),  # nothing without another field
}


def check(config: PeftConfig, model: nn.Module, *, new: bool) -> None:
    """Refuse what cannot be trained on `model`, a base or what holds it.

    Args:
        new: a config to make an adapter of, or else of one that the model brings.

    Raises:
        UserError: the message names the key of the config.
    """
    if not isinstance(config, LoraConfig):
        raise UserError(f"peft_config: a {config.peft_type} adapter cannot be trained here, give a LoraConfig.")
    init = config.init_lora_weights
    if init not in (KEEPS_BASE if new else LOADABLE):
        raise UserError(
            f"init_lora_weights: {init!r} changes the base, so that the model with the adapter off is no reference; "
            + ("write true or gaussian." if new else "save that adapter with path_initial_model_for_weight_conversion (PEFT).")
        )
    if new and init == "orthogonal" and (config.r % 2 or getattr(model, "is_quantized", False)):
        raise UserError("init_lora_weights: 'orthogonal' needs an even lora_r and weights that are not quantized, write true or gaussian.")
    if config.bias != "none":
        mended = "write none." if new else "merge that adapter with PEFT's merge_and_unload and give the folder as model_name_or_path."
        raise UserError(f"bias: {config.bias!r} trains the base's own parameters, which every view shares; {mended}")
    plain = LoraConfig()
    for field in dataclasses.fields(config):
        if field.name not in KNOWN and getattr(config, field.name) and getattr(config, field.name) != getattr(plain, field.name):
            mended = "leave the key out." if new else "merge that adapter with PEFT's merge_and_unload first."
            raise UserError(f"{field.name}: LoRA with it has not been tried with several views of one base, {mended}")
    if config.use_dora and any(isinstance(m, Linear8bitLt) and m.weight.device.type == "cpu" for m in model.modules()):
        raise UserError("use_dora: on a CPU, PEFT loses the scales of int8 weights under DoRA; write load_in_4bit, or leave the key out.")


def check_stack(below: PeftConfig, config: PeftConfig) -> None:
    """Refuse two adapters that both train a module as a whole, of which only one can be seen.

    Raises:
        UserError: the message names the modules.
    """
    if twice := _whole(below) & _whole(config):
        raise UserError(
            f"modules_to_save: {', '.join(sorted(twice))} is trained as a whole by the adapter below as well, and two of it cannot be added; "
            "merge that adapter first, or leave it out here."
        )


def _whole(config: PeftConfig) -> set[str]:
    """What an adapter trains in place of the base's own."""
    return {*(config.modules_to_save or ()), *(("embed_tokens",) if config.trainable_token_indices else ())}
