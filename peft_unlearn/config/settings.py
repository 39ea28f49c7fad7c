"""Every setting of an unlearning run: its help, which is the command line's help too, its choices or range, and where its value comes from."""

import contextlib
import copy
import dataclasses
import json
from dataclasses import dataclass, field
from typing import Annotated, Any

from peft_unlearn.config import library, methods, validation
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.ranges import Range
from peft_unlearn.util.registry import COMBINERS, LOSSES

FROM_METHOD: Any = None  # the default of a setting that `method` decides
_ENUMS = library.choices(library.Training)


def _setting(default: Any, help: str, choices: Any = ()) -> Any:
    """A field with its help and, where it has some, its choices. Its range, if it is a number, stands in its annotation."""
    return field(default=default, metadata={"help": help, **({"choices": list(choices)} if choices else {})})


@dataclass
class TrainingSettings:
    """What a run is told beside the fields of `TrainingArguments`, of which some get another default and another help here.

    It is made of a recipe without torch, with those fields beside it as `library.Training` has them, and is half of `UnlearnConfig`.
    A setting left at None takes the value that `method` gives it (see `peft_unlearn.config.methods`).

    Raises:
        UserError: a value outside its choices or its range, or a key that unlearning would ignore; the message names the key.
    """

    method: str = _setting(
        "mean_teacher",
        f"Set of values to start from; auto is the winner of docs/studies/study.md, {methods.AUTO}.",
        ["auto", *methods.METHODS],
    )
    forget_loss: str = _setting(FROM_METHOD, "Loss on the forget set.", LOSSES)
    forget_loss_args: dict[str, Any] | str | None = _setting(  # noqa: RUF009
        FROM_METHOD, "Parameters of the forget loss, for example {tol: 0.02} for nlul or {beta: 0.1} for npo."
    )
    answers: str = _setting(
        FROM_METHOD,
        "What to answer in place of what is forgotten: natural (as a never-seen model does, or else this one), refuse (that it "
        "does not know), column (alternate_answer of the forget set), or none. A preference loss (dpo) prefers it, others learn it.",
        ["none", "natural", "refuse", "column"],
    )
    refusal: str | None = _setting(None, "What answers: refuse says, in the language of the rows; one of a list in English if left out.")
    prompt_dropout: Annotated[float, Range("from 0 to 1")] = _setting(
        FROM_METHOD,
        "Share of a forget row's prompt that every second time is left out, other tokens put in, so that other wordings are forgotten too.",
    )
    answers_coef: Annotated[float, Range("above 0")] = _setting(FROM_METHOD, "Weight of those answers, where they are learned.")
    retain_loss: str = _setting(
        FROM_METHOD,
        "On the retain set: nll (cross-entropy), hinge (that of tokens that have become less likely than they were), hidden (distance of a "
        "layer's hidden states from the reference), or none.",
        ["nll", "hinge", "hidden", "none"],
    )
    hidden_layer: Annotated[int | None, Range("at least 1")] = _setting(
        None, "Layers after which rmu and retain_loss: hidden read the hidden states; a quarter of the model's if left out."
    )
    retain_kl: str = _setting(
        FROM_METHOD,
        "Divergence on the retain set from the teacher (EMA of the adapter), from the reference (forgetting adapter off), or none.",
        ["teacher", "reference", "none"],
    )
    holdout_kl: str = _setting(
        FROM_METHOD,
        "The same on part of holdout_dataset and on neutral_rows: what was never seen shall stay as it was. Here reference is the model as it "
        "was given, with earlier requests on it. With stop_at, reference; left out where there are no such rows.",
        ["teacher", "reference", "none"],
    )
    neutral_rows: Annotated[int, Range("at least 0")] = _setting(
        FROM_METHOD, "Texts that the model writes itself before training, to stay as it is elsewhere: held with the holdout."
    )
    divergence: str = _setting("kl", "Form of retain_kl: kl, or qkl, its second-order expansion in the logits.", ["kl", "qkl"])
    definitions: str = _setting(
        "peft-unlearn",
        "Whose reductions the losses follow: peft-unlearn, or openunlearning, to set a run beside that code's (padding and all).",
        ["peft-unlearn", "openunlearning"],
    )
    combine: str = _setting(FROM_METHOD, "How the objectives' gradients become one direction.", COMBINERS)
    forget_coef: Annotated[float, Range("at least 0")] = _setting(FROM_METHOD, "Weight of the forget objective.")
    retain_coef: Annotated[float, Range("at least 0")] = _setting(FROM_METHOD, "Weight of the retain cross-entropy.")
    kl_coef: Annotated[float, Range("at least 0")] = _setting(FROM_METHOD, "Weight of the divergence.")
    forget_floor: Annotated[float, Range("from 0 to 1")] = _setting(
        FROM_METHOD,
        "Rows whose mean token probability is under this (tokens: under its square) have been forgotten and leave the loss; 0 is off.",
    )
    stop_at: str = _setting(
        FROM_METHOD,
        "Give each token of the forget set a target log-probability, that of a never-seen model, and stop early where all are met: never_seen "
        "(such a model tells), auto (estimated from holdout_dataset), or none. A recipe of method auto has the one that its sets and models allow.",
        ["none", "never_seen", "auto"],
    )
    train_quantized: str = _setting(
        "none",
        "Train for the weights that are shipped: every second step computes with the adapter merged and rounded to nf4 or int8; none "
        "trains it beside its base alone.",
        ["none", "nf4", "int8"],
    )
    logit_lens_coef: Annotated[float, Range("at least 0")] = _setting(
        FROM_METHOD,
        "With stop_at: weight of the forget loss on inner layers, read by the final norm and head, one layer a step in turn, as far as "
        "they know more than the last one shall; 0 is off. Left out, our three methods take 0.3 where the model has such layers.",
    )
    sam_rho: Annotated[float, Range("from 0 to 1")] = _setting(
        0.0,
        "Train against relearning: every second step has its forget loss where a step of learning the set again would bring the "
        "adapter, this share of the way it has come (for example 0.2); 0 is off.",
    )
    retain_bound: Annotated[float | None, Range("at least 0")] = _setting(
        FROM_METHOD, "Bound on the retain loss: retain_coef then starts a multiplier that grows while the loss is above it (PDU)."
    )
    lagrangian_rate: Annotated[float, Range("above 0")] = _setting(
        1.0, "Rate at which that multiplier follows the loss beyond retain_bound."
    )
    retain_kl_max: Annotated[float | None, Range("above 0")] = _setting(
        None,
        "Budget for side effects: KL divergence from the reference, in nats a token, on retain rows that are left out of training for it. The "
        "adapter that is kept is within it.",
    )
    negate: bool = _setting(FROM_METHOD, "Negate the adapter after training (task arithmetic: learn the forget set, then subtract).")
    teacher_decay: Annotated[float | None, Range("from 0 to 1")] = _setting(
        FROM_METHOD, "EMA decay of the teacher adapter for each optimizer step (1 - delta of the paper)."
    )
    damping: Annotated[float, Range("at least 0")] = _setting(FROM_METHOD, "Pull of the student towards the teacher, added after clipping.")
    auto_lr: bool = _setting(FROM_METHOD, "Set the learning rate from the curvature of the retain loss (GeN).")
    auto_lr_steps: Annotated[int, Range("at least 1")] = _setting(10, "Optimizer steps between two probes of the automatic learning rate.")
    auto_lr_max: Annotated[float, Range("above 0")] = _setting(1e-2, "The automatic learning rate never exceeds this.")
    max_length: Annotated[int, Range("at least 2")] = _setting(
        1024, "Longer rows are cut to this many tokens, longer texts become several rows; the run says how many."
    )
    chat_template_kwargs: dict[str, Any] | None = _setting(  # noqa: RUF009
        None, "Variables of the tokenizer's chat template, for example {enable_thinking: false} for Qwen3."
    )
    self_retain_rows: Annotated[int, Range("at least 1")] = _setting(
        256, "Without a retain set: how many texts the model writes itself before training, to be kept."
    )

    # TrainingArguments fields that the method decides unless they are given.
    learning_rate: Annotated[float | None, Range("above 0")] = _setting(
        None, "Learning rate; with auto_lr, where it starts. By the size of the base if left out."
    )
    max_steps: int = _setting(
        FROM_METHOD,
        "Optimizer steps; with stop_at a bound, for a run ends by itself. Give num_train_epochs instead to count epochs of the forget set.",
    )
    max_minutes: Annotated[float | None, Range("above 0")] = _setting(None, "A bound on the time of training, in minutes.")
    num_train_epochs: Annotated[float | None, Range("at least 0")] = _setting(
        None, "Epochs of the forget set, in place of max_steps; 0 where max_steps decides."
    )
    lr_scheduler_type: str = _setting(FROM_METHOD, "Schedule of the learning rate.", _ENUMS["lr_scheduler_type"])
    warmup_steps: Annotated[float, Range("at least 0")] = _setting(
        0, "Steps in which the learning rate rises from 0, or below 1 their share of all steps."
    )
    optim: str = _setting(FROM_METHOD, "Optimizer, by its transformers name.", _ENUMS["optim"])
    optim_args: str | None = _setting(FROM_METHOD, "Parameters of the optimizer, for example momentum=0.95 for sgd.")
    max_grad_norm: Annotated[float, Range("at least 0")] = _setting(FROM_METHOD, "Clip of the combined gradient's global norm; 0 is off.")
    weight_decay: Annotated[float, Range("at least 0")] = _setting(FROM_METHOD, "Weight decay on the adapter.")

    # Defaults of TrainingArguments that hide faults or that the two streams do not fit.
    logging_nan_inf_filter: bool = _setting(False, "Kept off: the filter would hide a divergence.")
    remove_unused_columns: bool | None = _setting(False, "Kept off: batches are nested {forget, retain}.")
    logging_steps: float = _setting(10, "Optimizer steps between two log lines.")
    save_minutes: Annotated[float, Range("at least 0")] = _setting(5, "Minutes between two checkpoints; 0 is off.")
    save_strategy: str = _setting(
        "no",
        "When more checkpoints are written than save_minutes has; with steps, every save_steps. The adapter is always saved at the end.",
    )
    save_total_limit: Annotated[int | None, Range("at least 0")] = _setting(2, "Checkpoints that are kept, the last ones; 0 keeps all.")
    resume_from_checkpoint: str | None = _setting(
        None, "Go on from a checkpoint's folder, or with true from the last one in output_dir that is whole."
    )
    report_to: None | str | list[str] = _setting(  # noqa: RUF009, RUF036  # HfArgumentParser reads no other order
        "none", "Where metrics are reported to: none, wandb, tensorboard, ..."
    )
    per_device_train_batch_size: Annotated[int, Range("at least 1")] = _setting(
        8, "Forget rows in a micro-batch; as many retain rows come with them."
    )
    per_device_eval_batch_size: Annotated[int, Range("at least 1")] = _setting(8, "Rows that an evaluation scores at a time.")
    gradient_accumulation_steps: Annotated[int, Range("at least 1")] = _setting(
        1, "Micro-batches whose gradients make one optimizer step; its losses are means over all of them."
    )
    hub_strategy: str = _setting("end", "Kept at end: checkpoints hold the teacher and stay here.")
    hub_private_repo: bool | None = _setting(
        True, "Uploads are private unless this is false: base and adapter together show what was forgotten."
    )

    def __post_init__(self) -> None:
        # As it was told: a trainer makes the settings again where `method: auto` depends on its sets and models.
        self.given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        if self.stop_at is None:
            self.stop_at = "none"
        if self.method == "auto":
            self.method = methods.AUTO
            if self.answers is None and self.definitions == "peft-unlearn":
                self.answers = "natural"  # also where nothing tells targets
        validation.check_choice("method", self.method, ["auto", *methods.METHODS])
        self._take_from_method()
        if self.num_train_epochs is None:
            self.num_train_epochs = 1.0 if self.max_steps == -1 else 0.0
        if self.warmup_steps and self.lr_scheduler_type == "constant" and not self.auto_lr:
            self.lr_scheduler_type = "constant_with_warmup"  # transformers' "constant" has no warm-up and would ignore it
        if isinstance(self.forget_loss_args, str):  # as `HfArgumentParser` gives it
            with contextlib.suppress(ValueError):
                self.forget_loss_args = json.loads(self.forget_loss_args)
        validation.check(self, TrainingSettings)

    def _take_from_method(self) -> None:
        """Give each setting that is None the value of the method.

        Raises:
            UserError: the method has a value for a key that it does not decide.
        """
        defaults = methods.defaults(self.method, self.stop_at)
        decides = {f.name for f in dataclasses.fields(TrainingSettings) if f.default is FROM_METHOD}
        for key, value in defaults.items():
            if key not in decides:
                raise UserError(f"method: {self.method} has a value for {key}, which no method decides; take it out of the method.")
            if key == "forget_loss_args" and self.forget_loss not in (None, defaults.get("forget_loss")):
                value = {}  # another loss than the method's: the method's parameters are not meant for it
            if key == "max_steps" and self.num_train_epochs:
                value = -1  # epochs were asked for
            if getattr(self, key) is None:
                setattr(self, key, copy.copy(value))
