"""The base and the adapters of a recipe on the meta device: shapes and types without weights."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from bitsandbytes.functional import QuantState, quantize_4bit
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.quantizers import AutoHfQuantizer
from trl import get_peft_config, get_quantization_config  # type: ignore[attr-defined]

from peft_unlearn.config.recipe import Recipe
from peft_unlearn.model import adapters, prequantized, saved, supported
from peft_unlearn.util.errors import UserError


def build(recipe: Recipe, config: PreTrainedConfig) -> PeftModel:
    """What `UnlearnTrainer` would train: the base as the recipe holds it, the user's adapter, the forgetting adapter, and the teacher.

    Raises:
        UserError: a base that is quantized by other means than bitsandbytes, an adapter that is not there, modules that the model lacks.
    """
    model, args = recipe.model, recipe.training
    peft_config: Any = get_peft_config(model)
    peft_config.init_lora_weights = model.init_lora_weights
    base: Any = load_base(config, model.dtype or "auto", get_quantization_config(model), model.attn_implementation)
    with torch.device("meta"):
        if model.adapter_name_or_path and model.adapter_mode != "merge":
            below: PeftConfig = saved.config_of(model.adapter_name_or_path, key="adapter_name_or_path")
            below.inference_mode = False
            saved.resize(base, saved.entries_of(base, saved.weights_of(model.adapter_name_or_path, key="adapter_name_or_path")))
            base = get_peft_model(base, below, adapter_name=adapters.FINETUNE if model.adapter_mode == "stack" else adapters.STUDENT)
            peft_config = peft_config if model.adapter_mode == "stack" else None
            if reference := model.reference_adapter_name_or_path:
                base.add_adapter(adapters.REFERENCE, saved.config_of(reference, key="reference_adapter_name_or_path"))
        adapted = adapters.attach(base, peft_config, teacher=args.teacher_decay is not None)
    if args.gradient_checkpointing:
        adapted.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
        adapted.enable_input_require_grads()
    return adapted


def load_base(config: PreTrainedConfig, dtype: str, quantization: Any, attention: str | None) -> PreTrainedModel:
    """The base, its linear layers in bitsandbytes' form where the recipe or the base's own config say so."""
    config = copy.deepcopy(config)
    own, method = config.to_dict().get("quantization_config"), prequantized.method(config)
    if method not in (None, "bitsandbytes"):
        raise UserError(f"model_name_or_path: the base is quantized by {method}, plan the one in 16 bits.")
    if own is not None and not own.keys() & {"quant_method", "load_in_4bit", "load_in_8bit"}:  # transformers cannot load it either
        raise UserError(f"model_name_or_path: the quantization_config of its config.json has no quant_method; {prequantized.SIXTEEN}.")
    if own is not None:
        quantization = BitsAndBytesConfig.from_dict(own) if method else None
        del config.quantization_config
    how: dict[str, Any] = {} if dtype == "auto" else {"dtype": getattr(torch, dtype)}
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, attn_implementation=attention, **how)
        if quantization is not None:
            AutoHfQuantizer.from_config(quantization, pre_quantized=False).preprocess_model(base, device_map={"": "meta"})
    for module in base.modules():
        if isinstance(module, Linear4bit):
            old = module.weight
            packed, state = quantize_4bit(
                old.data, blocksize=old.blocksize, compress_statistics=old.compress_statistics, quant_type=old.quant_type
            )
            module.weight = Params4bit(
                packed, quant_state=state, blocksize=old.blocksize, quant_type=old.quant_type, bnb_quantized=True, module=module
            )
            module.quant_state = state
        elif isinstance(module, Linear8bitLt):
            rows = module.weight.new_empty(module.weight.shape, dtype=torch.int8)
            stats = module.weight.new_empty(module.out_features, dtype=torch.float32)
            module.weight = Int8Params(rows, requires_grad=False, has_fp16_weights=False, CB=rows, SCB=stats)
    return base


def tensors(model: PeftModel) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a model holds, with the item that it counts for.

    Items are "base weights", "experts in ..." of those that stay unquantized beside them, "adapter", "teacher" and "other adapters".
    """
    items = {id(p): "adapter" for p in adapters.adapter_parameters(model)}
    items |= {id(p): "teacher" for p in adapters.adapter_parameters(model, adapters.TEACHER)}
    for name in (adapters.FINETUNE, adapters.REFERENCE):
        items |= {id(p): "other adapters" for p in adapters.adapter_parameters(model, name)}
    items |= {id(p): f"experts in {str(p.dtype).removeprefix('torch.')}" for p in supported.unquantized(model)}
    for tensor in [*model.parameters(), *model.buffers()]:
        yield items.get(id(tensor), "base weights"), tensor
    for module in model.modules():
        for part in _statistics(module):
            yield "base weights", part


def _statistics(module: nn.Module) -> list[Tensor]:
    """What bitsandbytes holds beside a packed weight."""
    if isinstance(module, Linear8bitLt):
        return [found for found in (module.weight.SCB, module.state.SCB) if found is not None]
    if not isinstance(module, Linear4bit):
        return []
    state: QuantState = module.weight.quant_state
    nested = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
    return [state.absmax, state.code, *nested]
