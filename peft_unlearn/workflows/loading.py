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
from peft import PeftModel
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from trl import get_peft_config, get_quantization_config  # type: ignore[attr-defined]

from peft_unlearn import data
from peft_unlearn.config.model_settings import DataArguments
from peft_unlearn.config.recipe import Recipe
from peft_unlearn.config.unlearn_config import ModelArguments, UnlearnConfig
from peft_unlearn.data.variants import Probe
from peft_unlearn.model import adapters, saved
from peft_unlearn.training import datasets, never_seen
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import ADAPTER_CONFIG, has_file, same_model

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
    config, tokenizer, length = load_tokenizer(model, args.max_length)
    check_fit(config, model, tokenizer)
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


def load_tokenizer(
    model: ModelArguments, longest: int, adapter: str | None = None
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase, int]:
    """Config and tokenizer, and the tokens that a row may have: `longest`, or the model's context if that is shorter.

    The tokenizer is the one in the folder of `adapter` or of the adapter below, whichever has one: that is what it was trained with.

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
    brings = [one for one in (adapter, model.adapter_name_or_path) if one and has_file(one, TOKENIZER_CONFIG_FILE)]
    source, revision = (brings[0], None) if brings else (name, model.model_revision)
    if brings:
        logger.info("The tokenizer is that of %s, with its chat template if it has one.", source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision or "main")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{'adapter_name_or_path' if brings else 'model_name_or_path'}: {source!r} has no tokenizer that loads, "
            "put the base's tokenizer files beside its weights."
        ) from error
    return config, tokenizer, datasets.row_length(config, longest)


def check_vocabulary(never_seen: str | Path, tokenizer: PreTrainedTokenizerBase, *, key: str) -> None:
    """See that a never-seen model, or the base of an adapter, reads the same tokens.

    Raises:
        UserError: no tokenizer, or another vocabulary.
    """
    base, revision = base_of(never_seen, key=key)
    of_adapter = str(never_seen) if (Path(never_seen) / ADAPTER_CONFIG).is_file() else None
    _, other, _ = load_tokenizer(ModelArguments(model_name_or_path=base, model_revision=revision), 1, of_adapter)
    if other.get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"{key}: {str(never_seen)!r} has another vocabulary than the model, give one of the same base that was trained without the forget set."
        )


def base_of(model: str | Path, *, key: str) -> tuple[str, str]:
    """The folder or Hub name of a whole model, and its revision: its own, or of a local adapter its base's."""
    if not (Path(model) / ADAPTER_CONFIG).is_file():
        return str(model), "main"
    config = saved.config_of(str(model), key=key)
    if not config.base_model_name_or_path:
        raise UserError(f"{key}: {str(model)!r} does not name its base, write base_model_name_or_path into its {ADAPTER_CONFIG}.")
    return str(config.base_model_name_or_path), config.revision or "main"


def load_never_seen(model: ModelArguments, name: str | Path, *, key: str) -> PreTrainedModel:
    """A never-seen model, or adapter on its base, held in the same precision as `model`."""
    base, revision = base_of(name, key=key)
    whole = dataclasses.replace(model, model_name_or_path=base, adapter_name_or_path=None, model_revision=revision)
    if (Path(name) / ADAPTER_CONFIG).is_file():
        return cast(PreTrainedModel, load_trained(whole, str(name)))
    return load_whole(whole)


def settle_base(model: ModelArguments, adapter: str | None, *, key: str) -> None:
    """Compare the base with the one that a saved adapter names. Its shapes are compared by `check_fit`; a name may differ, as folders move.

    The revision that the adapter names becomes the base's.

    Raises:
        UserError: no adapter, one of a form that `saved.config_of` refuses, or another revision of the base than the recipe names.
    """
    if not adapter:
        return
    config, base = saved.config_of(adapter, key=key), model.model_name_or_path or ""
    named = str(config.base_model_name_or_path or base)
    if not same_model(named, base):
        logger.warning("Warning: %s says that its base is %s, and is put on %s.", adapter, named, base)
    elif config.revision and not Path(base).is_dir() and config.revision != model.model_revision:
        if model.model_revision not in (None, "main"):
            raise UserError(
                f"{key}: {adapter!r} belongs to revision {config.revision} of {named}, and model_revision is {model.model_revision}; "
                f"leave that out, or write model_revision: {config.revision}."
            )
        model.model_revision = config.revision
        logger.info("The base is %s at revision %s, as %s says.", base, config.revision, adapter)


def check_fit(config: PreTrainedConfig, model: ModelArguments, tokenizer: PreTrainedTokenizerBase, trained: str | None = None) -> None:
    """Put the adapters of a run on its base, all without weights, and see that they fit and that the tokenizer does.

    Args:
        trained: a saved forgetting adapter; left out, it is one that the recipe makes.

    Raises:
        UserError: no causal language model, modules that it lacks, adapters of another base or that do not go together, tokens beyond the
            embedding.
    """
    base = empty = _without_weights(config, model)
    below, key, mode = model.adapter_name_or_path, "adapter_name_or_path", model.adapter_mode
    if below:
        name = {"stack": adapters.FINETUNE, "continue": adapters.REFERENCE if trained else adapters.STUDENT}.get(mode, adapters.STUDENT)
        empty = saved.fit(empty, below, name, key=key)
        empty = cast(Any, adapters.merged(empty) if mode == "merge" else empty)
    if trained:
        saved.fit(empty, trained, adapters.STUDENT, key="model")
    else:
        with torch.device("meta"):
            adapters.attach(empty, None if below and mode == "continue" else new_adapter(model))
    entries = len(base.get_input_embeddings().weight)
    if max(tokenizer.get_vocab().values(), default=0) >= entries:
        raise UserError(
            f"model_name_or_path: {model.model_name_or_path!r} has {entries} entries and its tokenizer tokens beyond them; "
            "give the model that the tokenizer is of, or save the adapter with its embeddings (save_embedding_layers)."
        )


def _without_weights(config: PreTrainedConfig, model: ModelArguments) -> PreTrainedModel:
    """The base without weights; it has the modules to adapt.

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
    return empty


def new_adapter(model: ModelArguments) -> Any:
    """The config of the adapter that a recipe makes."""
    config = cast(Any, get_peft_config(model))
    config.init_lora_weights = model.init_lora_weights
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
        return adapters.merged(saved.put(base, model.adapter_name_or_path, adapters.STUDENT))
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
    base, peft_config = load_base(model), new_adapter(model)
    if model.adapter_name_or_path and model.adapter_mode == "stack":
        return {"model": saved.put(base, model.adapter_name_or_path, adapters.FINETUNE), "peft_config": peft_config}
    if model.adapter_name_or_path and model.adapter_mode == "continue":
        return {"model": saved.put(base, model.adapter_name_or_path, adapters.STUDENT), "peft_config": None}
    return {"model": base, "peft_config": peft_config}


def load_trained(model: ModelArguments, adapter: str) -> PeftModel:
    """The base with a saved forgetting adapter, and what it was trained on top of, ready for `adapters.view`."""
    base = load_base(model)
    if not model.adapter_name_or_path or model.adapter_mode == "merge":
        trained = saved.put(base, adapter, adapters.STUDENT)
    else:
        below = adapters.FINETUNE if model.adapter_mode == "stack" else adapters.REFERENCE
        trained = saved.put(base, model.adapter_name_or_path, below)
        trained = saved.put(trained, adapter, adapters.STUDENT)
    return trained if model.load_in_4bit or model.load_in_8bit else trained.to(PartialState().device)
