"""What a trainer is given, made ready: settings that depend on its sets and models, the model with its adapters, and the tokenizer."""

import copy
import dataclasses
import logging
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.model import adapters, loading
from peft_unlearn.training.passes import read_inner_layers
from peft_unlearn.util.errors import UserError

logger = logging.getLogger(__name__)


def settings(args: UnlearnConfig | None, *, never_seen: bool, holdout: bool, forgotten: bool = False) -> UnlearnConfig:
    """The settings of one run, a copy: the caller's stay as they are, also for a run on another model.

    `method: auto` without `stop_at` stops where a model would be that never saw the forget set, if one can tell (`never_seen`) or rows that
    nobody learnt (`holdout`). What was changed in the settings after they were made, stays changed. Rows that are `forgotten` already
    are held as well.

    Raises:
        UserError: what this machine or these sets do not allow.
    """
    args = UnlearnConfig("unlearn-output") if args is None else copy.copy(args)
    if not isinstance(args, UnlearnConfig):
        raise UserError(
            f"args: an UnlearnConfig is needed and this is a {type(args).__name__}, give UnlearnConfig(...) with the same keys."
        )
    left_open = args.given["method"] == "auto" and args.given["stop_at"] is None and args.stop_at == "none"
    if left_open and (never_seen or holdout):
        before, now = values(UnlearnConfig(**args.given)), values(args)
        changed = {key: value for key, value in now.items() if value != before[key]}
        args = UnlearnConfig(**{**args.given, **changed, "stop_at": "never_seen" if never_seen else "auto"})
    elif left_open:
        logger.warning(
            "method: auto: without a holdout_dataset or a never-seen model nobody can tell where to stop; forget rows are pushed down to a mean "
            "probability of %g. A holdout of 48 rows of their kind changes that.",
            args.forget_floor,
        )
    return fitted(args, held=holdout or forgotten)


def values(args: UnlearnConfig) -> dict[str, Any]:
    """Every field that may be given."""
    return {f.name: getattr(args, f.name) for f in dataclasses.fields(args) if f.init}


def fitted(args: UnlearnConfig, *, held: bool) -> UnlearnConfig:
    """A copy of the settings for a run with or without rows to be held: without any, and without texts of the model's own, nothing is."""
    args = copy.copy(args)
    if not held and not args.neutral_rows:
        args.holdout_kl = "none"
    return args


def load(model: str | Path | PreTrainedModel | PeftModel, quantization_config: Any) -> PreTrainedModel | PeftModel:
    """The model; one that is given by name is loaded.

    Raises:
        UserError: no such model, or one that is loaded already and is to be quantized.
    """
    if isinstance(model, str | Path):
        return adapters.load_base(model, quantization_config=quantization_config)
    if not isinstance(model, PreTrainedModel | PeftModel):
        raise UserError(
            f"model: a causal language model of transformers is needed and this is a {type(model).__name__}, give one or its name."
        )
    if quantization_config is not None:
        raise UserError("quantization_config: it applies to a model given by name; quantize a loaded one when loading it.")
    return model


def load_tokenizer(model: PreTrainedModel | PeftModel) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside the model's weights.

    Raises:
        UserError: there is none that works.
    """
    return loading.tokenizer(model.config._name_or_path, key="processing_class")


def adapt(model: PreTrainedModel | PeftModel, args: UnlearnConfig, peft_config: PeftConfig | None) -> PeftModel:
    """The model on its device, with the forgetting adapter and its teacher.

    Raises:
        UserError: an adapter that cannot be attached, or that `negate` would take away.
    """
    if args.negate and isinstance(model, PeftModel) and adapters.STUDENT in model.peft_config:
        raise UserError("negate: it would take away the adapter that is trained further as well, stack a new one or merge that one.")
    set_seed(args.seed)  # the adapter's init belongs to the run
    adapted = adapters.attach(model, peft_config, teacher=args.teacher_decay is not None)
    read_inner_layers(args, adapted)
    adapters.place(adapted, args.device)  # before targets are read and texts written with it
    if args.gradient_checkpointing:
        adapted.enable_input_require_grads()  # or LoRA layers silently do not train
    return adapted
