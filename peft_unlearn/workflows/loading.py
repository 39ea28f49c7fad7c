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
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D
from trl import get_peft_config, get_quantization_config  # type: ignore[attr-defined]

from peft_unlearn import data
from peft_unlearn.config.model_settings import DataArguments
from peft_unlearn.config.recipe import Recipe
from peft_unlearn.config.unlearn_config import ModelArguments, UnlearnConfig
from peft_unlearn.data.variants import Probe
from peft_unlearn.model import adapters, saved
from peft_unlearn.model import loading as models
from peft_unlearn.training import datasets, never_seen
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import ADAPTER_CONFIG, has_file, is_gone, same_model
from peft_unlearn.workflows import below as adapter_below

logger = logging.getLogger(__name__)

UNMERGED = ("use_dora", "lora_bias", "trainable_token_indices")  # forms of an adapter that can be trained, and not merged shard by shard


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
    depth = getattr(config.get_text_config(), "num_hidden_layers", None)
    if args.hidden_layer and depth and args.hidden_layer > depth:
        raise UserError(f"hidden_layer: {model.model_name_or_path!r} has {depth} layers and no {args.hidden_layer}, write at most {depth}.")
    if model.never_seen_model_name_or_path:
        check_never_seen(model.never_seen_model_name_or_path, model, tokenizer, key="never_seen_model_name_or_path")
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
    model: ModelArguments, longest: int, adapter: str | None = None, *, key: str = "model_name_or_path"
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase, int]:
    """Config and tokenizer, and the tokens that a row may have: `longest`, or the model's context if that is shorter.

    The tokenizer is the one in the folder of `adapter` or of the adapter below, whichever has one: that is what it was trained with.

    Raises:
        UserError: no such model, or no tokenizer beside it.
    """
    name = model.model_name_or_path or ""
    config = models.config(name, revision=model.model_revision, key=key)
    tokenizer = adapter_below.tokenizer(model, [one for one in (adapter, model.adapter_name_or_path) if one], key=key)
    return config, tokenizer, datasets.row_length(config, longest)


def check_never_seen(never_seen: str | Path, model: ModelArguments, tokenizer: PreTrainedTokenizerBase, *, key: str) -> None:
    """See that a never-seen model, or an adapter and its base, can be loaded and reads the same tokens as `model`.

    Raises:
        UserError: no such model or tokenizer, another vocabulary, or an adapter that does not fit its base.
    """
    base, revision = base_of(never_seen, model, key=key)
    of_adapter = str(never_seen) if has_file(never_seen, ADAPTER_CONFIG) else None
    config, other, _ = load_tokenizer(ModelArguments(model_name_or_path=base, model_revision=revision), 1, of_adapter, key=key)
    if other.get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"{key}: {str(never_seen)!r} has another vocabulary than the model, give one of the same base that was trained without the forget set."
        )
    empty = models.checked(config, base, key=key)
    if of_adapter:
        named = saved.config_of(of_adapter, key=key).base_model_name_or_path or base
        if not same_model(named, base):
            logger.warning("Warning: %s says that its base is %s, which is not here, and is put on %s.", never_seen, named, base)
        saved.fit(empty, of_adapter, adapters.STUDENT, key=key)


def base_of(never_seen: str | Path, model: ModelArguments, *, key: str) -> tuple[str, str]:
    """The folder or Hub name of a whole model, and its revision: its own, or of an adapter its base's, or that of `model` where this one is gone."""
    if not has_file(never_seen, ADAPTER_CONFIG):
        return str(never_seen), "main"
    config, own = saved.config_of(str(never_seen), key=key), model.model_name_or_path or ""
    named = str(config.base_model_name_or_path or own)
    return (own, model.model_revision) if is_gone(named) else (named, config.revision or "main")


def load_never_seen(model: ModelArguments, name: str | Path, *, key: str) -> PreTrainedModel:
    """A never-seen model, or adapter on its base, held in the same precision as `model`."""
    base, revision = base_of(name, model, key=key)
    whole = dataclasses.replace(model, model_name_or_path=base, adapter_name_or_path=None, model_revision=revision)
    if has_file(name, ADAPTER_CONFIG):
        return cast(PreTrainedModel, load_trained(whole, str(name), key=key))
    return load_whole(whole, key=key)


def settle_base(model: ModelArguments, adapter: str | None, *, key: str) -> ModelArguments:
    """The settings with the revision of the base that a saved adapter names.

    The base's shapes are compared by `check_fit`; its name may differ, as folders move.

    Raises:
        UserError: no adapter, one of a form that `saved.config_of` refuses, or another revision of the base than the recipe names.
    """
    if not adapter:
        return model
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
        logger.info("The base is %s at revision %s, as %s says.", base, config.revision, adapter)
        return dataclasses.replace(model, model_revision=config.revision)
    return model


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
        adapter_below.check(config, model)
        name = {"stack": adapters.FINETUNE, "continue": adapters.REFERENCE if trained else adapters.STUDENT}.get(mode, adapters.STUDENT)
        empty = saved.fit(empty, below, name, key=key)
        if model.reference_adapter_name_or_path:
            empty = saved.fit(empty, model.reference_adapter_name_or_path, adapters.REFERENCE, key="reference_adapter_name_or_path")
        empty = cast(Any, adapters.merged(empty) if mode == "merge" else empty)
    if trained:
        saved.fit(empty, trained, adapters.STUDENT, key="model")
    else:
        with torch.device("meta"):
            made = adapters.attach(empty, None if below and mode == "continue" else new_adapter(model)).peft_config[adapters.STUDENT]
        if lost := [key for key in UNMERGED if getattr(made, key, None)]:
            logger.warning(
                "Warning: `peft-unlearn merge` cannot merge an adapter with %s; leave it out, or merge with PEFT's merge_and_unload.",
                lost[0],
            )
    models.check_tokens(base, tokenizer, model.model_name_or_path or "")


def check_whole(config: PreTrainedConfig, model: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> None:
    """See, without its weights, that a base alone can be loaded, and that its tokenizer fits.

    Raises:
        UserError: no causal language model, files that are not its own, tokens beyond the embedding.
    """
    models.check_tokens(_without_weights(config, model), tokenizer, model.model_name_or_path or "")


def check_beside(model: ModelArguments, adapter: str, *, key: str) -> None:
    """See that a further adapter fits the base of a run.

    Raises:
        UserError: what `settle_base` and `saved.fit` refuse.
    """
    settled = settle_base(model, adapter, key=key)
    config = models.config(settled.model_name_or_path or "", revision=settled.model_revision)
    saved.fit(models.skeleton(config, settled.model_name_or_path or ""), adapter, adapters.STUDENT, key=key)


def _without_weights(config: PreTrainedConfig, model: ModelArguments) -> PreTrainedModel:
    """The base without weights; it has the modules to adapt, and can be loaded as the recipe says.

    Raises:
        UserError: what `models.checked` refuses, or a name that no module or parameter ends with; PEFT passes over one among several.
    """
    name = model.model_name_or_path or ""
    empty = models.checked(config, name, quantization=get_quantization_config(model), attention=model.attn_implementation)
    modules, parameters = dict(empty.named_modules()), dict(empty.named_parameters())
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear | Conv1D)]
    for key, known, offered in (
        ("lora_target_modules", modules, linear),
        ("lora_modules_to_save", modules, list(modules)[1:]),
        ("lora_target_parameters", parameters, list(parameters)),
    ):
        asked = getattr(model, key)
        for wanted in asked if isinstance(asked, list) else ():
            if not any(f".{name}".endswith(f".{wanted}") for name in known):
                parts = 2 if known is parameters else 1
                found = ", ".join(dict.fromkeys(".".join(name.split(".")[-parts:]) for name in offered if not name[-1].isdigit()))
                what = "parameter" if known is parameters else "module"
                also = "all-linear, or " if key == "lora_target_modules" else ""
                raise UserError(f"{key}: the model has no {what} named {wanted}; write {also}any of {found}.")
    return empty


def new_adapter(model: ModelArguments) -> Any:
    """The config of the adapter that a recipe makes."""
    config = cast(Any, get_peft_config(model))
    config.init_lora_weights = model.init_lora_weights
    return config


def load_base(model: ModelArguments, *, key: str = "model_name_or_path") -> PreTrainedModel:
    base = adapters.load_base(
        model.model_name_or_path or "",
        key=key,
        dtype=model.dtype or "auto",
        quantization_config=get_quantization_config(model),
        revision=model.model_revision,
        attn_implementation=model.attn_implementation,
    )
    if model.adapter_name_or_path and model.adapter_mode == "merge":
        return adapters.merged(saved.put(base, model.adapter_name_or_path, adapters.STUDENT))
    return base


def load_whole(model: ModelArguments, *, key: str = "model_name_or_path") -> PreTrainedModel:
    """The base alone, on the device where it is evaluated. Quantized weights, also of a folder that is quantized itself, are there already."""
    base = load_base(model, key=key)
    return base if getattr(base, "is_quantized", False) else base.to(PartialState().device)


def load_dense(model: ModelArguments) -> PreTrainedModel:
    """The 16/32-bit base of a recipe, however the recipe holds it."""
    return load_base(dataclasses.replace(model, load_in_4bit=False, load_in_8bit=False)).to(PartialState().device)


def load_to_train(model: ModelArguments) -> dict[str, Any]:
    """`model` and `peft_config` of an `UnlearnTrainer`: the base, with the user's own adapter where the recipe names one."""
    base, peft_config = load_base(model), new_adapter(model)
    if not model.adapter_name_or_path or model.adapter_mode == "merge":
        return {"model": base, "peft_config": peft_config}
    return {"model": _with_own(base, model, adapters.STUDENT), "peft_config": None if model.adapter_mode == "continue" else peft_config}


def load_trained(model: ModelArguments, adapter: str, *, key: str | None = None) -> PeftModel:
    """The base with a saved forgetting adapter, and what it was trained on top of, ready for `adapters.view`."""
    base, key = load_base(model, key=key or "model_name_or_path"), key or "model"
    below = _with_own(base, model, adapters.REFERENCE) if model.adapter_name_or_path and model.adapter_mode != "merge" else base
    trained = saved.put(below, adapter, adapters.STUDENT, key=key)
    return trained if model.load_in_4bit or model.load_in_8bit else trained.to(PartialState().device)


def _with_own(base: PreTrainedModel, model: ModelArguments, continued: str) -> PeftModel:
    """The base with the user's own adapter: called `continued` where it is trained further, else with the reference's where that is another."""
    own, reference = str(model.adapter_name_or_path), model.reference_adapter_name_or_path
    found = saved.put(base, own, continued if model.adapter_mode == "continue" else adapters.FINETUNE)
    return saved.put(found, reference, adapters.REFERENCE) if reference else found
