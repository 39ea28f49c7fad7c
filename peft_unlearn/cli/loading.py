"""From a recipe's names to what they name: tokenised sets, base and adapters.

What can be wrong without a model is found before one is loaded.
"""

from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D
from trl import get_peft_config, get_quantization_config

from peft_unlearn import adapters, data
from peft_unlearn.arguments import ModelArguments
from peft_unlearn.errors import UserError
from peft_unlearn.recipe import Recipe


def prepare(plan: Recipe) -> tuple[PreTrainedTokenizerBase, dict[str, Dataset]]:
    """Check what a recipe names, and tokenise its sets: "forget", "retain" if there is one, and those of eval_dataset.

    Raises:
        UserError: a missing model, file or column, an empty set, forget rows that also stand in the retain set, an adapter of another base,
            modules that the model lacks.
    """
    sets = {"forget": data.load(plan.data.forget_dataset or "", name="forget_dataset")}
    if plan.data.retain_dataset is not None:
        sets["retain"] = data.load(plan.data.retain_dataset, name="retain_dataset")
        data.forget_in_retain(sets["forget"], sets["retain"])
    for name, spec in (plan.data.eval_dataset or {}).items():
        sets[name] = data.load(spec, name=f"eval_dataset.{name}")
    model = plan.model.model_name_or_path or ""
    if plan.model.adapter_name_or_path:
        check_adapter(plan.model.adapter_name_or_path, model, key="adapter_name_or_path")
    try:
        config = AutoConfig.from_pretrained(model, revision=plan.model.model_revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model_name_or_path: {model!r} is no folder with a model's config.json, and no model on the Hub that answers."
        ) from error
    _check_modules(config, plan.model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=plan.model.model_revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model_name_or_path: {model!r} has no tokenizer that loads, put the base's tokenizer files beside its weights."
        ) from error
    longest = plan.training.max_length
    length = min(longest, getattr(config.get_text_config(), "max_position_embeddings", longest))
    keys = {"forget": "forget_dataset", "retain": "retain_dataset"}
    template = plan.data.chat_template_kwargs
    return tokenizer, {
        name: data.tokenize(rows, tokenizer, length, name=keys.get(name, f"eval_dataset.{name}"), template_arguments=template).rows
        for name, rows in sets.items()
    }


def _check_modules(config: PreTrainedConfig, model: ModelArguments) -> None:
    """See, on a model without weights, that there is a causal language model for the config, and that it has the modules to adapt.

    Raises:
        UserError: another kind of model, or a name in lora_target_modules that no module ends with; PEFT passes over one among several.
    """
    try:
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    except ValueError as error:
        raise UserError(
            f"model_name_or_path: {model.model_name_or_path!r} is a {config.model_type}, and no causal language model of transformers."
        ) from error
    if isinstance(model.lora_target_modules, list):
        linear = [name for name, module in empty.named_modules() if isinstance(module, nn.Linear | Conv1D)]
        for wanted in model.lora_target_modules:
            if not any(f".{name}".endswith(f".{wanted}") for name, _ in empty.named_modules()):
                found = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linear))
                raise UserError(f"lora_target_modules: the model has no module named {wanted}; write all-linear, or any of {found}.")


def check_adapter(adapter: str, base: str, *, key: str) -> None:
    """See that a LoRA adapter is there and was trained on `base`. A local base is compared by its folder's name alone: folders move.

    Raises:
        UserError: no adapter, not LoRA, or one of another base.
    """
    config = load_adapter_config(adapter, key=key)
    trained_on = str(config.base_model_name_or_path or base)
    if trained_on != base and Path(trained_on).name != Path(base).name:
        raise UserError(f"{key}: {adapter!r} is an adapter of {trained_on}, and not of {base}; write model_name_or_path: {trained_on}.")


def load_adapter_config(adapter: str, *, key: str) -> PeftConfig:
    try:
        config = PeftConfig.from_pretrained(adapter)
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {adapter!r} is no folder with an adapter_config.json, and no adapter on the Hub that answers.") from error
    if config.peft_type != "LORA":
        raise UserError(f"{key}: {adapter!r} is a {config.peft_type} adapter, write a LoRA one.")
    return config


def spread(rows: Dataset, count: int) -> Dataset:
    """`count` rows, evenly spaced (sets such as TOFU are sorted by author); all if there are fewer, or if count is 0."""
    return rows.select([i * len(rows) // count for i in range(count)]) if 0 < count < len(rows) else rows


def load_base(model: ModelArguments) -> PreTrainedModel:
    base = adapters.load_base(
        model.model_name_or_path or "",
        dtype=model.dtype or "auto",
        quantization_config=get_quantization_config(model),
        revision=model.model_revision,
        attn_implementation=model.attn_implementation,
    )
    if model.adapter_name_or_path and model.adapter_mode == "merge":
        return _with_adapter(base, model.adapter_name_or_path, adapters.STUDENT).merge_and_unload()
    return base


def load_to_train(model: ModelArguments) -> dict[str, Any]:
    """`model` and `peft_config` of an `UnlearnTrainer`: the base, with the user's own adapter where the recipe names one."""
    base = load_base(model)
    peft_config = cast(Any, get_peft_config(model))
    peft_config.init_lora_weights = model.init_lora_weights
    if model.adapter_name_or_path and model.adapter_mode == "stack":
        return {"model": _with_adapter(base, model.adapter_name_or_path, adapters.FINETUNE), "peft_config": peft_config}
    if model.adapter_name_or_path and model.adapter_mode == "continue":
        return {"model": _with_adapter(base, model.adapter_name_or_path, adapters.STUDENT), "peft_config": None}
    return {"model": base, "peft_config": peft_config}


def load_trained(model: ModelArguments, adapter: str) -> PeftModel:
    """The base with a saved forgetting adapter, and what it was trained on top of, ready for `adapters.view`."""
    base = load_base(model)
    if not model.adapter_name_or_path or model.adapter_mode == "merge":
        trained = _with_adapter(base, adapter, adapters.STUDENT)
    else:
        below = adapters.FINETUNE if model.adapter_mode == "stack" else adapters.REFERENCE
        trained = _with_adapter(base, model.adapter_name_or_path, below)
        trained.load_adapter(adapter, adapters.STUDENT)
    return trained if model.load_in_4bit or model.load_in_8bit else trained.to(PartialState().device)


def _with_adapter(base: PreTrainedModel, adapter: str, name: str) -> PeftModel:
    try:
        return PeftModel.from_pretrained(base, adapter, adapter_name=name)
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        raise UserError(
            f"adapter: {adapter!r} does not fit the shapes of {base.name_or_path}, it is an adapter of another base."
        ) from error
    except ValueError as error:
        if "target modules" not in str(error).lower():
            raise
        raise UserError(f"adapter: {adapter!r} names modules that {base.name_or_path} lacks, it is an adapter of another base.") from error
