"""From a recipe's names to what they name: tokenized sets, base and adapters.

What can be wrong without a model is found before one is loaded.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D
from trl import get_peft_config, get_quantization_config  # type: ignore[attr-defined]

from peft_unlearn import data
from peft_unlearn.config.model_settings import DataArguments
from peft_unlearn.config.recipe import Recipe
from peft_unlearn.config.unlearn_config import ModelArguments, UnlearnConfig
from peft_unlearn.data.variants import Probe
from peft_unlearn.model import adapters
from peft_unlearn.training import datasets, never_seen
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import ADAPTER_CONFIG, same_model, undamaged

logger = logging.getLogger(__name__)


def prepare(plan: Recipe) -> tuple[PreTrainedTokenizerBase, dict[str, Probe]]:
    """Check what a recipe names, and tokenize its sets: "forget", "retain" and "holdout" if they are there, and those of eval_dataset.

    The forget rows of a preference loss bring their alternate answers along, as the column `alternate`.

    Raises:
        UserError: a missing model, file or column, an empty set, forget rows that also stand in the retain set, an adapter of another base, or
            modules that the model lacks.
    """
    sets = load_sets(plan.data)
    model, args = plan.model, plan.training
    if model.adapter_name_or_path:
        check_adapter(model.adapter_name_or_path, model.model_name_or_path or "", key="adapter_name_or_path")
    config, tokenizer, length = load_tokenizer(model, args.max_length)
    _check_modules(config, model)
    if model.never_seen_model_name_or_path:
        check_vocabulary(model.never_seen_model_name_or_path, tokenizer, key="never_seen_model_name_or_path")
    rows, column = plan.data.eval_rows, plan.data.group_column
    return tokenizer, datasets.tokenize(args, tokenizer, length, sets, reword=True, reword_rows=rows, group_column=column)


def with_never_seen(
    probes: Mapping[str, Probe], model: PreTrainedModel, args: UnlearnConfig, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Probe]:
    """The sets, with what a never-seen `model` tells a run of them."""
    told = never_seen.told(model, args, tokenizer, {name: found.rows for name, found in probes.items()})
    return {name: found._replace(rows=told.get(name, found.rows)) for name, found in probes.items()}


def training_sets(probes: Mapping[str, Probe]) -> dict[str, Any]:
    """The sets as `UnlearnTrainer` takes them."""
    rows = {name: found.rows for name, found in probes.items()}
    named = {key: rows.pop(name, None) for name, key in datasets.KEYS.items()}
    return {**named, "eval_dataset": rows}


def load_sets(arguments: DataArguments) -> dict[str, Dataset]:
    """The sets that a recipe names.

    Raises:
        UserError: what `data.load` refuses.
    """
    specs = {"forget": arguments.forget_dataset, "retain": arguments.retain_dataset, "holdout": arguments.holdout_dataset}
    sets = {name: data.load(spec, name=datasets.KEYS[name]) for name, spec in specs.items() if spec is not None}
    return sets | {name: data.load(spec, name=f"eval_dataset.{name}") for name, spec in (arguments.eval_dataset or {}).items()}


def load_tokenizer(model: ModelArguments, longest: int) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase, int]:
    """Config and tokenizer, and the tokens that a row may have: `longest`, or the model's context if that is shorter.

    Raises:
        UserError: no such model, or no tokenizer beside it.
    """
    name = model.model_name_or_path or ""
    try:
        config = AutoConfig.from_pretrained(name, revision=model.model_revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model_name_or_path: {name!r} is no folder with a model's config.json, and no model on the Hub that answers."
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=model.model_revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model_name_or_path: {name!r} has no tokenizer that loads, put the base's tokenizer files beside its weights."
        ) from error
    return config, tokenizer, datasets.row_length(config, longest)


def check_vocabulary(never_seen: str | Path, tokenizer: PreTrainedTokenizerBase, *, key: str) -> None:
    """See that a never-seen model, or the base of an adapter, reads the same tokens.

    Raises:
        UserError: no tokenizer, or another vocabulary.
    """
    _, other, _ = load_tokenizer(ModelArguments(model_name_or_path=base_of(never_seen, key=key)), 1)
    if other.get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"{key}: {str(never_seen)!r} has another vocabulary than the model, give one of the same base that was trained without the forget set."
        )


def base_of(model: str | Path, *, key: str) -> str:
    """The folder or Hub name of a whole model: its own, or of a local adapter its base's."""
    if not (Path(model) / ADAPTER_CONFIG).is_file():
        return str(model)
    return str(load_adapter_config(str(model), key=key).base_model_name_or_path)


def load_never_seen(model: ModelArguments, name: str | Path, *, key: str) -> PreTrainedModel:
    """A never-seen model, or adapter on its base, held in the same precision as `model`."""
    whole = dataclasses.replace(model, model_name_or_path=base_of(name, key=key), adapter_name_or_path=None, model_revision="main")
    if (Path(name) / ADAPTER_CONFIG).is_file():
        return cast(PreTrainedModel, load_trained(whole, str(name)))
    return load_whole(whole)


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


def check_adapter(adapter: str, base: str, *, key: str, said: bool = False) -> None:
    """See that a LoRA adapter is there and was trained on `base`. A local base is compared by its folder's name alone: folders move.

    Args:
        said: the user names this base for this adapter, in place of the one that it names itself: then another one is only warned of.

    Raises:
        UserError: no adapter, not LoRA, or one of another base.
    """
    config = load_adapter_config(adapter, key=key)
    trained_on = str(config.base_model_name_or_path or base)
    if not same_model(trained_on, base):
        if said:
            logger.warning("Warning: %s says that its base is %s, and is put on %s.", adapter, trained_on, base)
            return
        raise UserError(f"{key}: {adapter!r} is an adapter of {trained_on}, and not of {base}; write model_name_or_path: {trained_on}.")


def load_adapter_config(adapter: str, *, key: str) -> PeftConfig:
    try:
        config = PeftConfig.from_pretrained(adapter)
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {adapter!r} is no folder with an adapter_config.json, and no adapter on the Hub that answers.") from error
    if config.peft_type != "LORA":
        raise UserError(f"{key}: {adapter!r} is a {config.peft_type} adapter, write a LoRA one.")
    return config


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


def load_whole(model: ModelArguments) -> PreTrainedModel:
    """The base alone, on the device where it is evaluated. Quantized weights, also of a folder that is quantized itself, are there already."""
    base = load_base(model)
    return base if getattr(base, "is_quantized", False) else base.to(PartialState().device)


def load_dense(model: ModelArguments) -> PreTrainedModel:
    """The 16/32-bit base of a recipe, however the recipe holds it."""
    return load_base(dataclasses.replace(model, load_in_4bit=False, load_in_8bit=False)).to(PartialState().device)


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
        with undamaged(f"adapter: the weight file of {adapter!r}"):
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
