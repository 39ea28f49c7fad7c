"""Every knob of an unlearning run: its help, which is the command line's help too, and where its value comes from."""

import contextlib
import copy
import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from peft_unlearn.config import methods, names, validation
from peft_unlearn.util.errors import UserError

FROM_METHOD: Any = None  # the default of a knob that `method` decides


@dataclass
class Knobs:
    """What a run is told beside the fields of `TrainingArguments`, of which some get another default and another help here.

    It is made of a recipe without torch, with those fields beside it as `library.Training` has them, and is half of `UnlearnConfig`.
    A knob left at None takes the value that `method` gives it (see `peft_unlearn.methods`).

    Raises:
        UserError: a value outside its choices or its range, or a key that unlearning would ignore; the message names the key.
    """

    method: str = field(
        default="mean_teacher",
        metadata={
            "help": f"Set of defaults to start from: auto (the winner of docs/study.md, {methods.AUTO}), "
            + ", ".join(methods.METHODS)
            + ".",
            "choices": ["auto", *methods.METHODS],
        },
    )
    forget_loss: str = field(default=FROM_METHOD, metadata={"help": "Loss on the forget set: " + ", ".join(names.LOSSES) + "."})
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
        default=FROM_METHOD, metadata={"help": "How the objectives' gradients become one direction: " + ", ".join(names.COMBINERS) + "."}
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
        default=FROM_METHOD,
        metadata={
            "help": "Land where a model would be that never saw the forget set, from above and from below, and end there: never_seen (such a "
            "model tells), auto (estimated from holdout_dataset), or none. A recipe of method auto has the one that its sets and models allow."
        },
    )
    train_quantized: str = field(
        default="none",
        metadata={
            "help": "Train for the weights that are shipped: every second step computes with the adapter merged and rounded to nf4 or int8; none "
            "trains it beside its base alone."
        },
    )
    logit_lens_coef: float = field(
        default=0.0,
        metadata={
            "help": "With stop_at: weight of the forget loss on inner layers, read by the final norm and head, one layer a step in turn, as far as "
            "they know more than the last one shall (for example 0.3); 0 is off."
        },
    )
    sam_rho: float = field(
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
    lagrangian_rate: float = field(default=1.0, metadata={"help": "Rate at which that multiplier follows the loss beyond retain_bound."})
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
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": "Variables of the tokenizer's chat template, for example {enable_thinking: false} for Qwen3."}
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
    warmup_steps: float = field(
        default=0, metadata={"help": "Steps in which the learning rate rises from 0, or below 1 their share of all steps."}
    )
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
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "Go on from a checkpoint's folder, or with true from the last one in output_dir; save_strategy: steps and save_steps write them."
        },
    )
    report_to: None | str | list[str] = field(  # noqa: RUF036  # HfArgumentParser reads no other order
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
        # As it was told: a trainer makes the settings again where `method: auto` depends on its sets and models.
        self.given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        if self.stop_at is None:
            self.stop_at = "none"
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
        if isinstance(self.forget_loss_args, str):  # as `HfArgumentParser` gives it
            with contextlib.suppress(ValueError):
                self.forget_loss_args = json.loads(self.forget_loss_args)
        validation.check(self)
