"""UnlearnConfig: every knob of an unlearning run, its help (which is the command line's help too) and its checks."""

import copy
import inspect
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from accelerate.utils import parse_flag_from_env
from transformers import SchedulerType, TrainingArguments
from transformers.training_args import OptimizerNames

from peft_unlearn import methods
from peft_unlearn.combine import COMBINERS
from peft_unlearn.deployed import QUANTISERS
from peft_unlearn.errors import UserError
from peft_unlearn.losses import LOSSES, openunlearning

FROM_METHOD: Any = None  # the default of a knob that `method` decides

CHOICES = {
    "method": tuple(methods.METHODS),
    "forget_loss": tuple(LOSSES),
    "retain_loss": ("nll", "hidden", "none"),
    "alternate": ("none", "column", "refusals"),
    "stop_at": ("none", "never_seen", "auto"),
    "survive": ("none", *QUANTISERS),
    "retain_kl": ("teacher", "reference", "none"),
    "holdout_kl": ("teacher", "reference", "none"),
    "divergence": ("kl", "qkl"),
    "definitions": ("peft-unlearn", "openunlearning"),
    "combine": tuple(COMBINERS),
    "lr_scheduler_type": tuple(kind.value for kind in SchedulerType),
    "optim": tuple(name.value for name in OptimizerNames),
}
# With definitions: openunlearning, what that code has.
THEIRS: dict[str, tuple] = {
    "forget_loss": tuple(openunlearning.FORGET),
    "retain_kl": ("reference", "none"),
    "divergence": ("kl",),
    "holdout_kl": ("none",),
    "stop_at": ("none",),
    "survive": ("none",),
    "resist": (0,),
    "forget_floor": (0,),
}
# key: (lowest, highest, whether the ends themselves are allowed)
RANGES = {
    "forget_coef": (0.0, math.inf, True),
    "retain_coef": (0.0, math.inf, True),
    "kl_coef": (0.0, math.inf, True),
    "forget_floor": (0.0, 1.0, True),
    "teacher_decay": (0.0, 1.0, True),
    "retain_bound": (0.0, math.inf, True),
    "dual_rate": (0.0, math.inf, False),
    "hidden_layer": (1, math.inf, True),
    "damping": (0.0, math.inf, True),
    "learning_rate": (0.0, math.inf, False),
    "auto_lr_max": (0.0, math.inf, False),
    "inner_coef": (0.0, math.inf, True),
    "resist": (0.0, 1.0, True),
    "auto_lr_steps": (1, math.inf, True),
    "max_length": (2, math.inf, True),
    "self_retain_rows": (1, math.inf, True),
    "max_grad_norm": (0.0, math.inf, True),
    "weight_decay": (0.0, math.inf, True),
    "num_train_epochs": (0.0, math.inf, True),
    "per_device_train_batch_size": (1, math.inf, True),
    "per_device_eval_batch_size": (1, math.inf, True),
    "gradient_accumulation_steps": (1, math.inf, True),
}
SGD_ARGS = ("momentum", "dampening", "nesterov", "weight_decay")  # transformers passes over any other without a word
LOSS_RANGES = {
    "tol": (0.0, math.inf, True),
    "beta": (0.0, math.inf, False),
    "beta1": (0.0, math.inf, True),
    "beta2": (0.0, math.inf, True),
    "gamma": (0.0, math.inf, True),
    "scale": (0.0, math.inf, True),
    "delta": (0.0, math.inf, True),
    "skip": (0, math.inf, True),
}
OPTIONAL = (
    "teacher_decay",
    "learning_rate",
    "retain_bound",
    "hidden_layer",
)  # None: no teacher; by the base's size; no bound; by its depth

# Keys of TrainingArguments that would be ignored, or break what the step rests on: the one value that they may have, and why.
_SHARDED = "the gradient of each objective needs whole weights in every process, launch one process a GPU without it"
_OTHER_EVALUATION = "evaluation scores rows of its own, without it"
FIXED: dict[str, tuple[Any, str]] = {
    "fsdp": (None, _SHARDED),
    "fsdp_config": (None, _SHARDED),
    "deepspeed": (None, _SHARDED),
    "parallelism_config": (None, _SHARDED),
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


@dataclass
class UnlearnConfig(TrainingArguments):
    """Settings of an [`UnlearnTrainer`], on top of [`~transformers.TrainingArguments`].

    A knob left at None takes the value that `method` gives it (see `peft_unlearn.methods`).

    Raises:
        UserError: a value outside its choices or its range, or a key that unlearning would ignore; the message names the key.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*TrainingArguments._VALID_DICT_FIELDS, "forget_loss_args"]

    method: str = field(
        default="mean_teacher",
        metadata={
            "help": f"Set of defaults to start from: auto (the winner of docs/study.md, {methods.AUTO}), "
            + ", ".join(methods.METHODS)
            + ".",
            "choices": ["auto", *methods.METHODS],
        },
    )
    forget_loss: str = field(default=FROM_METHOD, metadata={"help": "Loss on the forget set: " + ", ".join(LOSSES) + "."})
    forget_loss_args: dict[str, Any] | str | None = field(
        default=FROM_METHOD, metadata={"help": "Parameters of the forget loss, for example {tol: 0.02} for nlul or {beta: 0.1} for npo."}
    )
    alternate: str = field(
        default=FROM_METHOD,
        metadata={
            "help": "What a preference loss (dpo) prefers to the forget answers: column (alternate_answer of the forget set), refusals, or none."
        },
    )
    retain_loss: str = field(
        default=FROM_METHOD,
        metadata={
            "help": "On the retain set: nll (cross-entropy), hidden (distance of a layer's hidden states from the reference), or none."
        },
    )
    hidden_layer: int | None = field(
        default=None,
        metadata={"help": "Layers after which rmu and retain_loss: hidden read the hidden states; a quarter of the model's if left out."},
    )
    retain_kl: str = field(
        default=FROM_METHOD,
        metadata={
            "help": "Divergence on the retain set from the teacher (EMA of the adapter), from the reference (forgetting adapter off), or none."
        },
    )
    holdout_kl: str = field(
        default=FROM_METHOD,
        metadata={
            "help": "The same on holdout_dataset: rows that were never seen shall stay as unseen as they were. With stop_at, reference; left out "
            "where there is no holdout."
        },
    )
    divergence: str = field(default="kl", metadata={"help": "Form of retain_kl: kl, or qkl, its second-order expansion in the logits."})
    definitions: str = field(
        default="peft-unlearn",
        metadata={
            "help": "Whose reductions the losses follow: peft-unlearn, or openunlearning, to set a run beside that code's (padding and all)."
        },
    )
    combine: str = field(
        default=FROM_METHOD, metadata={"help": "How the objectives' gradients become one direction: " + ", ".join(COMBINERS) + "."}
    )
    forget_coef: float = field(default=FROM_METHOD, metadata={"help": "Weight of the forget objective."})
    retain_coef: float = field(default=FROM_METHOD, metadata={"help": "Weight of the retain cross-entropy."})
    kl_coef: float = field(default=FROM_METHOD, metadata={"help": "Weight of the divergence."})
    forget_floor: float = field(
        default=FROM_METHOD,
        metadata={
            "help": "Rows whose mean token probability is under this (tokens: under its square) have been forgotten and leave the loss; 0 is off."
        },
    )
    stop_at: str = field(
        default="none",
        metadata={
            "help": "Land where a model would be that never saw the forget set, from above and from below, and end there: never_seen (such a "
            "model tells), auto (estimated from holdout_dataset), or none."
        },
    )
    survive: str = field(
        default="none",
        metadata={
            "help": "Train for the weights that are shipped: every second step computes with the adapter merged and rounded to nf4 or int8; none "
            "trains it beside its base alone."
        },
    )
    inner_coef: float = field(
        default=0.0,
        metadata={
            "help": "With stop_at: weight of the forget loss on inner layers, read by the final norm and head, one layer a step in turn, as far as "
            "they know more than the last one shall (for example 0.3); 0 is off."
        },
    )
    resist: float = field(
        default=0.0,
        metadata={
            "help": "Train against relearning: every second step has its forget loss where a step of learning the set again would bring the "
            "adapter, this share of the way it has come (for example 0.2); 0 is off."
        },
    )
    retain_bound: float | None = field(
        default=FROM_METHOD,
        metadata={"help": "Bound on the retain loss: retain_coef then starts a multiplier that grows while the loss is above it (PDU)."},
    )
    dual_rate: float = field(default=1.0, metadata={"help": "Rate at which that multiplier follows the loss beyond retain_bound."})
    negate: bool = field(
        default=FROM_METHOD, metadata={"help": "Negate the adapter after training (task arithmetic: learn the forget set, then subtract)."}
    )
    teacher_decay: float | None = field(
        default=FROM_METHOD, metadata={"help": "EMA decay of the teacher adapter for each optimiser step (1 - delta of the paper)."}
    )
    damping: float = field(default=FROM_METHOD, metadata={"help": "Pull of the student towards the teacher, added after clipping."})
    auto_lr: bool = field(default=FROM_METHOD, metadata={"help": "Set the learning rate from the curvature of the retain loss (GeN)."})
    auto_lr_steps: int = field(default=10, metadata={"help": "Optimiser steps between two probes of the automatic learning rate."})
    auto_lr_max: float = field(default=1e-2, metadata={"help": "The automatic learning rate never exceeds this."})
    max_length: int = field(
        default=1024, metadata={"help": "Longer rows are cut to this many tokens, longer texts become several rows; the run says how many."}
    )
    self_retain_rows: int = field(
        default=256, metadata={"help": "Without a retain set: how many texts the model writes itself before training, to be kept."}
    )

    # TrainingArguments fields that the method decides unless they are given.
    learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate; with auto_lr, where it starts. By the size of the base if left out."}
    )
    max_steps: int = field(
        default=FROM_METHOD, metadata={"help": "Optimiser steps. Give num_train_epochs instead to count epochs of the forget set."}
    )
    num_train_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of the forget set, in place of max_steps; 0 where max_steps decides."}
    )
    lr_scheduler_type: str = field(default=FROM_METHOD, metadata={"help": "Schedule of the learning rate."})
    optim: str = field(
        default=FROM_METHOD, metadata={"help": "Optimiser, by its transformers name: adamw_torch, sgd, paged_adamw_8bit, ..."}
    )
    optim_args: str | None = field(
        default=FROM_METHOD, metadata={"help": "Parameters of the optimiser, for example momentum=0.95 for sgd."}
    )
    max_grad_norm: float = field(default=FROM_METHOD, metadata={"help": "Clip of the combined gradient's global norm; 0 is off."})
    weight_decay: float = field(default=FROM_METHOD, metadata={"help": "Weight decay on the adapter."})

    # Defaults of TrainingArguments that hide faults or that the two streams do not fit.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Kept off: the filter would hide a divergence."})
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Kept off: batches are nested {forget, retain}."})
    logging_steps: float = field(default=10, metadata={"help": "Optimiser steps between two log lines."})
    save_strategy: str = field(default="no", metadata={"help": "When checkpoints are written; the adapter is always saved at the end."})
    report_to: str | list[str] | None = field(
        default="none", metadata={"help": "Where metrics are reported to: none, wandb, tensorboard, ..."}
    )
    per_device_train_batch_size: int = field(
        default=8, metadata={"help": "Forget rows in a micro-batch; as many retain rows come with them."}
    )
    hub_strategy: str = field(default="end", metadata={"help": "Kept at end: checkpoints hold the teacher and stay here."})
    hub_private_repo: bool | None = field(
        default=True, metadata={"help": "Uploads are private unless this is false: base and adapter together show what was forgotten."}
    )

    def __post_init__(self) -> None:
        if self.method == "auto":
            self.method = methods.AUTO
        if self.method not in methods.METHODS:
            raise UserError(f"method: {self.method!r} is not one of auto, {', '.join(methods.METHODS)}.")
        defaults = methods.defaults(self.method, self.stop_at)
        for key, value in defaults.items():
            if key == "forget_loss_args" and self.forget_loss not in (None, defaults["forget_loss"]):
                value = {}  # another loss than the method's: the method's parameters are not meant for it
            if key == "max_steps" and self.num_train_epochs:
                value = -1  # epochs were asked for
            if getattr(self, key) is None:
                setattr(self, key, copy.copy(value))
        if self.num_train_epochs is None:
            self.num_train_epochs = 1.0 if self.max_steps == -1 else 0.0
        if self.warmup_steps and self.lr_scheduler_type == "constant" and not self.auto_lr:
            self.lr_scheduler_type = "constant_with_warmup"  # transformers' "constant" has no warm-up and would ignore it
        self._check()
        super().__post_init__()
        self._check_loss_args()

    def _check(self) -> None:
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise UserError(f"{key}: {getattr(self, key)!r} is not one of {', '.join(choices)}.")
        for key, interval in RANGES.items():
            if key not in OPTIONAL or getattr(self, key) is not None:
                _check_range(key, getattr(self, key), *interval)
        for key, (value, reason) in FIXED.items():
            if (getattr(self, key) or value) and getattr(self, key) != value:
                raise UserError(f"{key}: {reason}; leave the key out.")
        if parse_flag_from_env("ACCELERATE_USE_FSDP") or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
            raise UserError(f"accelerate: it was told to use FSDP or DeepSpeed; {_SHARDED}.")
        self._check_together()

    def _check_together(self) -> None:
        if self.max_steps < 1 and (self.max_steps != -1 or not self.num_train_epochs):
            raise UserError(f"max_steps: {self.max_steps!r} is no number of steps, write at least 1, or num_train_epochs in its place.")
        if self.max_steps > 0 and self.num_train_epochs:
            raise UserError("num_train_epochs: max_steps is given as well, leave one of the two out.")
        for key in ("retain_kl", "holdout_kl"):
            if getattr(self, key) == "teacher" and self.teacher_decay is None:
                raise UserError(f"{key}: 'teacher' needs teacher_decay, for example 0.995.")
        if self.damping and self.teacher_decay is None:
            raise UserError("damping: it pulls towards the teacher, so it needs teacher_decay, for example 0.995.")
        if self.auto_lr and self.lr_scheduler_type not in ("constant", "linear", "cosine"):
            raise UserError(f"lr_scheduler_type: {self.lr_scheduler_type!r} does not go with auto_lr, write constant, linear or cosine.")
        if self.auto_lr and self.warmup_steps:
            raise UserError("warmup_steps: auto_lr finds its rate at the first step, leave the key out.")
        for key, choices in THEIRS.items() if self.definitions == "openunlearning" else ():
            if getattr(self, key) not in choices:
                takes = " or ".join(", ".join(map(str, choices)).rsplit(", ", 1))
                raise UserError(f"{key}: OpenUnlearning's code has no {getattr(self, key)}, write {takes}, or leave definitions out.")
        loss = LOSSES[self.forget_loss]
        if loss.alternate != (self.alternate != "none"):
            needs = (
                "needs alternate answers, write column or refusals" if loss.alternate else "reads no alternate answers, leave the key out"
            )
            raise UserError(f"alternate: {self.forget_loss} {needs}.")
        if self.hidden_layer is not None and self.hidden_layer != int(self.hidden_layer):
            raise UserError(f"hidden_layer: {self.hidden_layer!r} is not a whole number.")
        if self.retain_bound is not None and self.retain_loss == "none":
            raise UserError("retain_bound: there is no retain loss to bound, write retain_loss: nll.")
        if self.retain_bound is not None and self.combine == "mgda":
            raise UserError("retain_bound: under mgda a larger weight counts for less, write another combine or leave the bound out.")
        if self.inner_coef and self.stop_at == "none":
            raise UserError("inner_coef: levels say where inner layers end, write stop_at as well, or leave the key out.")
        if self.negate and self.resist:
            raise UserError("resist: a negated adapter learns the forget set itself, leave the key out.")
        if self.negate and self.stop_at != "none":
            raise UserError("stop_at: a negated adapter is not seen before the end, leave the key out.")
        unknown = [key for key, _, _ in (part.strip().partition("=") for part in (self.optim_args or "").split(",")) if key not in SGD_ARGS]
        if self.optim == "sgd" and self.optim_args and unknown:
            raise UserError(f"optim_args: sgd has no parameter {unknown[0]!r}, it takes {', '.join(SGD_ARGS)}.")
        compares = (
            self.load_best_model_at_end or self.save_strategy == "best" or self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
        )
        if compares and None in (self.metric_for_best_model, self.greater_is_better):
            raise UserError(
                "metric_for_best_model: no one number says how well a model forgets; write a set and a metric, such as retain_loss, "
                "and greater_is_better: true or false."
            )

    def _check_loss_args(self) -> None:
        if not isinstance(self.forget_loss_args, dict):
            raise UserError(f"forget_loss_args: {self.forget_loss_args!r} is not a mapping, write for example {{tol: 0.02}}.")
        theirs = self.definitions == "openunlearning"
        function = openunlearning.FORGET[self.forget_loss] if theirs else LOSSES[self.forget_loss].function
        signature = inspect.signature(function).parameters.values()
        known = {p.name: p.default for p in signature if p.kind is inspect.Parameter.KEYWORD_ONLY}
        for key, value in self.forget_loss_args.items():
            if key not in known:
                takes = ", ".join(known) or "no parameters"
                raise UserError(f"forget_loss_args: {self.forget_loss} has no parameter {key!r}, it takes {takes}.")
            if not isinstance(known[key], bool):
                _check_range(f"forget_loss_args.{key}", value, *LOSS_RANGES[key])
                if isinstance(known[key], int) and value % 1:
                    raise UserError(f"forget_loss_args.{key}: {value!r} is not a whole number.")
            elif not isinstance(value, bool):
                raise UserError(f"forget_loss_args.{key}: {value!r} is not true or false.")


def _check_range(key: str, value: Any, low: float, high: float, ends: bool) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise UserError(f"{key}: {value!r} is not a number.")
    if not (low <= value <= high if ends else low < value < high):
        interval = f"from {low:g} to {high:g}" if high < math.inf else f"{'at least' if ends else 'above'} {low:g}"
        raise UserError(f"{key}: {value!r} is out of range, write a value {interval}.")
