"""What a setting's value may be, alone and beside the others. Nothing here waits for torch: a mistyped recipe is refused at once."""

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from peft_unlearn.config.foreign_keys import RENAMED_VALUES
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.ranges import Range, check_number
from peft_unlearn.util.registry import LOSSES, openunlearning_losses

# With definitions: openunlearning, what that code has.
IN_OPENUNLEARNING: dict[str, tuple[Any, ...]] = {
    "forget_loss": tuple(openunlearning_losses("forget_loss")),
    "retain_loss": (*openunlearning_losses("retain_loss"), "none"),
    "retain_kl": ("reference", "none"),
    "divergence": ("kl",),
    "holdout_kl": ("none",),
    "neutral_rows": (0,),
    "stop_at": ("none",),
    "answers": ("none", "refuse", "column"),
    "train_quantized": ("none",),
    "sam_rho": (0,),
    "forget_floor": (0,),
    "prompt_dropout": (0,),
}
SGD_ARGS = ("momentum", "dampening", "nesterov", "weight_decay")  # transformers passes over any other without a word
# What transformers' apply_chat_template takes itself, and a template does not see or has from the rows.
TEMPLATE_TAKES = {
    *("conversation", "messages", "tools", "documents", "chat_template", "tokenize", "add_generation_prompt", "continue_final_message"),
    *("padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
}

# Keys of TrainingArguments that would be ignored, or break what the step rests on: the one value that they may have, and why.
SHARDED = "the gradient of each objective needs whole weights in every process, launch one process a GPU without it"
_OTHER_EVALUATION = "evaluation scores rows of its own, without it"
FIXED: dict[str, tuple[Any, str]] = {
    "fsdp": (None, SHARDED),
    "fsdp_config": (None, SHARDED),
    "deepspeed": (None, SHARDED),
    "parallelism_config": (None, SHARDED),
    "label_smoothing_factor": (0.0, "the losses are those of forget_loss, retain_loss and retain_kl"),
    "label_names": (None, "the labels are called labels"),
    "neftune_noise_alpha": (None, "student, teacher and reference must differ by the adapter alone"),
    "torch_compile": (False, "compiled code frees what the second objective of a forward needs"),
    "torch_compile_backend": (None, "torch_compile is not possible"),
    "torch_compile_mode": (None, "torch_compile is not possible"),
    "use_liger_kernel": (False, "its kernels have not been tested with several gradients of one forward"),
    "liger_kernel_config": (None, "use_liger_kernel is not possible"),
    "auto_find_batch_size": (False, "a restart would keep the steps already taken, write a smaller per_device_train_batch_size"),
    "average_tokens_across_devices": (True, "losses are always averaged over the tokens of all processes"),
    "torch_empty_cache_steps": (None, "the step has no place for it"),
    "logging_nan_inf_filter": (False, "it would hide a divergence"),
    "remove_unused_columns": (False, "batches are nested {forget, retain}"),
    "dataloader_drop_last": (False, "every forget row is to be seen in every epoch"),
    "train_sampling_strategy": ("random", "forget and retain rows are paired by seed, epoch and index"),
    "length_column_name": ("length", "rows are not grouped by length"),
    "hub_strategy": ("end", "a checkpoint holds the teacher and stays here"),
    "hub_always_push": (False, "only the finished adapter is uploaded"),
    "prediction_loss_only": (False, _OTHER_EVALUATION),
    "eval_accumulation_steps": (None, _OTHER_EVALUATION),
    "eval_do_concat_batches": (True, _OTHER_EVALUATION),
    "eval_use_gather_object": (False, _OTHER_EVALUATION),
    "include_for_metrics": ([], _OTHER_EVALUATION),
    "batch_eval_metrics": (False, _OTHER_EVALUATION),
    "fp16_full_eval": (False, _OTHER_EVALUATION),
    "bf16_full_eval": (False, _OTHER_EVALUATION),
}

# Of transformers' own numbers, which it takes as they come.
OF_TRANSFORMERS = {
    **dict.fromkeys(("seed", "data_seed"), Range("from 0 to 4294967295")),
    **dict.fromkeys(("logging_steps", "save_steps", "eval_steps", "adam_epsilon", "ddp_timeout"), Range("above 0")),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), Range("from 0 to below 1")),
    **dict.fromkeys(("dataloader_num_workers", "eval_delay"), Range("at least 0")),
    "dataloader_prefetch_factor": Range("at least 1"),
    "per_device_train_batch_size": Range("from 1 to 65536"),
    "per_device_eval_batch_size": Range("from 1 to 65536"),
}


def check(args: Any, declared: type) -> None:
    """Check all of `args`, a `TrainingSettings` with the fields of `TrainingArguments`.

    Raises:
        UserError: a value outside its choices or its range, or that does not go with another; the message names the key.
    """
    check_values(args, declared)
    for key, within in OF_TRANSFORMERS.items():
        if getattr(args, key) is not None:
            check_number(key, getattr(args, key), within)
    for key, (value, reason) in FIXED.items():
        if (getattr(args, key) or value) and getattr(args, key) != value:
            raise UserError(f"{key}: {reason}; leave the key out.")
    _check_together(args)
    _check_loss_args(args)


def check_values(args: Any, declared: type) -> None:
    """Check each value against the choices and the range of its field in the class `declared`, a base of the class of `args`.

    Raises:
        UserError: one that is outside; the message names the key.
    """
    for name, allowed in _allowed(declared).items():
        value = getattr(args, name)
        if value is None and allowed.empty:
            continue
        if allowed.choices:
            check_choice(name, value, allowed.choices)
        elif allowed.within:
            check_number(name, value, allowed.within, whole=allowed.whole)


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """See that a value is one of its key's choices.

    Raises:
        UserError: it is not; the message gives the new name of one that was renamed.
    """
    if value not in choices:
        if isinstance(value, str) and value in RENAMED_VALUES.get(name, {}):
            raise UserError(f"{name}: {value} is now {RENAMED_VALUES[name][value]}, write that.")
        raise UserError(f"{name}: {value!r} is not one of {', '.join(map(str, choices))}.")


@dataclass(frozen=True)
class Allowed:
    """What a field may hold: one of its choices, or a number in a range; None as well, where it may be empty."""

    choices: tuple[Any, ...]
    within: Range | None
    whole: bool
    empty: bool


@cache
def _allowed(declared: type) -> dict[str, Allowed]:
    found, hints = {}, typing.get_type_hints(declared, include_extras=True)
    for f in dataclasses.fields(declared):
        hint, *extras = typing.get_args(hints[f.name]) if typing.get_origin(hints[f.name]) is typing.Annotated else (hints[f.name],)
        kinds = typing.get_args(hint) or (hint,)
        within = next((extra for extra in extras if isinstance(extra, Range)), None)
        choices = tuple(f.metadata.get("choices", ()))
        if choices or within:
            found[f.name] = Allowed(choices, within, int in kinds, type(None) in kinds)
    return found


def _check_together(args: Any) -> None:
    if args.max_steps < 1 and (args.max_steps != -1 or not args.num_train_epochs):
        raise UserError(f"max_steps: {args.max_steps!r} is no number of steps, write at least 1, or num_train_epochs in its place.")
    if args.max_steps > 0 and args.num_train_epochs:
        raise UserError("num_train_epochs: max_steps is given as well, leave one of the two out.")
    for key in ("retain_kl", "holdout_kl"):
        if getattr(args, key) == "teacher" and args.teacher_decay is None:
            raise UserError(f"{key}: 'teacher' needs teacher_decay, for example 0.995.")
    if args.damping and args.teacher_decay is None:
        raise UserError("damping: it pulls towards the teacher, so it needs teacher_decay, for example 0.995.")
    if args.auto_lr and args.lr_scheduler_type not in ("constant", "linear", "cosine"):
        raise UserError(f"lr_scheduler_type: {args.lr_scheduler_type!r} does not go with auto_lr, write constant, linear or cosine.")
    if args.auto_lr and args.warmup_steps:
        raise UserError("warmup_steps: auto_lr finds its rate at the first step, leave the key out.")
    for key, choices in IN_OPENUNLEARNING.items() if args.definitions == "openunlearning" else ():
        if getattr(args, key) not in choices:
            takes = " or ".join(", ".join(map(str, choices)).rsplit(", ", 1))
            raise UserError(f"{key}: OpenUnlearning's code has no {getattr(args, key)}, write {takes}, or leave definitions out.")
    if LOSSES[args.forget_loss].alternate and args.answers == "none":
        raise UserError(f"answers: {args.forget_loss} needs answers that it prefers, write natural, refuse or column.")
    if args.refusal is not None and (args.answers != "refuse" or not args.refusal.strip()):
        raise UserError("refusal: it is the text that answers: refuse says, write both, or leave the key out.")
    if args.retain_bound is not None and args.retain_loss == "none":
        raise UserError("retain_bound: there is no retain loss to bound, write retain_loss: nll.")
    if args.retain_bound is not None and args.combine == "mgda":
        raise UserError("retain_bound: under mgda a larger weight counts for less, write another combine or leave the bound out.")
    if args.logit_lens_coef and args.stop_at == "none":
        raise UserError("logit_lens_coef: targets say where inner layers end, write stop_at as well, or leave the key out.")
    if args.negate and args.sam_rho:
        raise UserError("sam_rho: a negated adapter learns the forget set itself, leave the key out.")
    if args.negate and args.stop_at != "none":
        raise UserError("stop_at: a negated adapter is not seen before the end, leave the key out.")
    if args.stop_at != "none" and not LOSSES[args.forget_loss].lowers:
        *others, last = (name for name, loss in LOSSES.items() if loss.lowers)
        raise UserError(
            f"stop_at: {args.forget_loss} does not lower the probability of the forget rows towards a target; "
            f"write forget_loss: {', '.join(others)} or {last}, or leave stop_at out."
        )
    for key in sorted(TEMPLATE_TAKES & set(args.chat_template_kwargs or {})):
        raise UserError(f"chat_template_kwargs: {key} is not one of a template's own, prompt and answer need it set; take it out.")
    unknown = [key for key, _, _ in (part.strip().partition("=") for part in (args.optim_args or "").split(",")) if key not in SGD_ARGS]
    if args.optim == "sgd" and args.optim_args and unknown:
        raise UserError(f"optim_args: sgd has no parameter {unknown[0]!r}, it takes {', '.join(SGD_ARGS)}.")
    compares = args.load_best_model_at_end or args.save_strategy == "best" or args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
    if compares and None in (args.metric_for_best_model, args.greater_is_better):
        raise UserError(
            "metric_for_best_model: no one number says how well a model forgets; write a set and a metric, such as retain_loss, "
            "and greater_is_better: true or false."
        )


def _check_loss_args(args: Any) -> None:
    if not isinstance(args.forget_loss_args, dict):
        raise UserError(f"forget_loss_args: {args.forget_loss_args!r} is not a mapping, write for example {{tol: 0.02}}.")
    losses = openunlearning_losses("forget_loss") if args.definitions == "openunlearning" else LOSSES
    known = losses[args.forget_loss].parameters
    for key, value in args.forget_loss_args.items():
        if key not in known:
            takes = ", ".join(known) or "no parameters"
            raise UserError(f"forget_loss_args: {args.forget_loss} has no parameter {key!r}, it takes {takes}.")
        known[key].check(f"forget_loss_args.{key}", value)
