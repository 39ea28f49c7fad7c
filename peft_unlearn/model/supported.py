"""Which adapters can be trained here: what one changes must be all its own, and the same in every forward, or views are not what they are called."""

import dataclasses

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel

from peft_unlearn.config.model_settings import KEEPS_BASE
from peft_unlearn.util.boundary import boundary
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

# Of what another token does to its own logits, by which those before it may move: in fp32, and where less precision rounds them.
LOOKS_AHEAD, ROUNDED = 1e-3, 0.05


def check(config: PeftConfig, model: nn.Module, *, new: bool) -> None:
    """Refuse what cannot be trained on `model`, a base or what holds it.

    Args:
        new: a config to make an adapter of, or else of one that the model brings.

    Raises:
        UserError: the message names the key of the config.
    """
    if not isinstance(config, LoraConfig):
        raise UserError(f"peft_config: a {config.peft_type} adapter cannot be trained here, give a LoraConfig.")
    if new and config.task_type not in (None, "CAUSAL_LM"):
        raise UserError(f"task_type: {str(config.task_type)!r} is none of a language model's, write CAUSAL_LM.")
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


def check_seen(model: nn.Module) -> None:
    """Refuse a model whose adapters cannot be switched: merged into the weights, they stay in every view, and hide what is added to them.

    Raises:
        UserError: an adapter that is merged, or is switched off.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if any(layer.merged for layer in layers):
        raise UserError(
            "model: its adapter is merged into its weights and would be in every view; call unmerge_adapter(), or merge_and_unload()."
        )
    if any(layer.disable_adapters for layer in layers):
        raise UserError("model: its adapters are switched off; call enable_adapter_layers() of its base_model.")


def running(model: nn.Module, what: str) -> boundary:
    """The boundary around a call of a model whose architecture may not bear what is asked of it."""
    return boundary(f"model_name_or_path: a {type(model).__name__} of transformers cannot {what}", "take another base")


@torch.no_grad()
def check_runs(model: PreTrainedModel) -> None:
    """See that the model reads tokens alone, and each without those that come after it.

    Raises:
        UserError: it needs other inputs, or is no causal model as it is configured.
    """
    if model.device.type == "meta":
        return
    cuda = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), running(model, "be run on tokens alone"):
        one, other = model(input_ids=torch.tensor([[0, 0], [0, 1]], device=model.device), use_cache=False).logits.float()
    moved = (one - other).abs().amax(-1)  # of the first token nothing but rounding
    exact = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    if moved[0] > (LOOKS_AHEAD if exact else ROUNDED) * moved[1]:
        raise UserError(
            f"model_name_or_path: a {type(model).__name__} configured so lets a token see those after it, and cannot be scored by its answers; "
            "take a causal model."
        )


def check_backward(model: PeftModel) -> None:
    """See that what is trained gets its gradient through the base.

    Raises:
        UserError: a kernel of the base that has no backward pass, such as some of quantized weights.
    """
    base, trained = model.get_base_model(), [parameter for parameter in model.parameters() if parameter.requires_grad]
    if base.device.type == "meta":
        return
    cuda = [base.device] if base.device.type == "cuda" else []
    ids = torch.zeros(1, 2, dtype=torch.long, device=base.device)
    with torch.enable_grad(), torch.random.fork_rng(devices=cuda), running(base, "be trained through"):
        torch.autograd.grad(model(input_ids=ids, use_cache=False).logits.float().sum(), trained, allow_unused=True)


def past_their_forward(model: nn.Module) -> set[str]:
    """Names of linear layers whose weights a state-space mixer (one with A and D) reads itself in its fused kernels, so that LoRA is not seen."""
    mixers = [(name, module) for name, module in model.named_modules() if hasattr(module, "A_log") and hasattr(module, "D")]
    return {f"{name}.out_proj" for name, module in mixers if hasattr(module, "out_proj")}


def not_linear(model: nn.Module) -> set[str]:
    """Names of an architecture's own kinds of linear layers that do something else than one, such as routers that give two tensors."""
    own = {name: module for name, module in model.named_modules() if type(module).__module__.startswith("transformers.models.")}
    return {name for name, module in own.items() if isinstance(module, nn.Linear) and not _gives_what_linear_gives(module)}


def _gives_what_linear_gives(module: nn.Linear) -> bool:
    parameters = {name: parameter.to("meta") for name, parameter in module.named_parameters()}
    states = torch.empty(1, 2, module.in_features, device="meta", dtype=module.weight.dtype)
    try:
        given = functional_call(module, parameters, (states,))
    except Exception:  # whatever it wants is nothing that LoRA's product could be added to
        return False
    return isinstance(given, torch.Tensor) and given.shape == (1, 2, module.out_features)


def unquantized(model: nn.Module) -> list[nn.Parameter]:
    """The stacked weights of a base that is quantized: bitsandbytes packs linear layers alone, and the experts of a mixture may be none."""
    if not any(isinstance(module, Linear4bit | Linear8bitLt) for module in model.modules()):
        return []
    owners = (module for module in model.modules() if not isinstance(module, _ConvNd | BaseTunerLayer))
    return [p for module in owners for p in module.parameters(recurse=False) if p.dim() == 3 and min(p.shape) > 1]


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
