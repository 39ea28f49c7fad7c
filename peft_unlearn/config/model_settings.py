"""The keys of a recipe that are not the trainer's: the model and its adapter, and the data. Like `knobs`, without torch."""

from dataclasses import dataclass, field
from typing import Any

from peft_unlearn.config.names import KEEPS_BASE
from peft_unlearn.util.errors import UserError


@dataclass
class ModelKnobs:
    """What is told of the base and the adapter beside the fields of TRL's `ModelConfig`, of which some get another default and help here.

    Raises:
        UserError: a value out of its range, or that does not go with another; the message names the key.
    """

    dtype: str | None = field(
        default=None,
        metadata={
            "help": "Type of the weights, and what 4-bit weights compute in: bfloat16 where the GPU has it and else float32 if left out.",
            "choices": ["auto", "bfloat16", "float16", "float32"],
        },
    )
    use_peft: bool = field(default=True, metadata={"help": "Always true: what is trained is an adapter."})
    lora_dropout: float = field(default=0.0, metadata={"help": "LoRA dropout; 0.05 in the teacher is 23 % noise on its logits."})
    lora_target_modules: list[str] | str | None = field(
        default="all-linear", metadata={"help": "Names of the linear layers that get an adapter, or all-linear."}
    )
    init_lora_weights: bool | str = field(
        default=True, metadata={"help": "Init of the new adapter: true, gaussian or orthogonal (the others change the base)."}
    )
    adapter_name_or_path: str | None = field(default=None, metadata={"help": "A LoRA adapter that the model was fine-tuned with."})
    adapter_mode: str = field(
        default="stack",
        metadata={
            "help": "stack: the forgetting adapter comes on top of that adapter, which stays frozen. merge: that adapter is merged into "
            "the 16/32-bit base first. continue: that adapter itself is trained further.",
            "choices": ["stack", "merge", "continue"],
        },
    )
    never_seen_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "A model that never saw the forget set: what the report compares with, and where stop_at: never_seen lands."},
    )

    def __post_init__(self) -> None:
        _check(self)


@dataclass
class DataArguments:
    """Which texts to forget, to keep and to look at: each a file, a Hub name, or a mapping with `load_dataset` keys."""

    forget_dataset: str | dict[str, Any] | None = field(
        default=None, metadata={"help": "The texts to forget: a file, a Hub name, or a mapping."}
    )
    retain_dataset: str | dict[str, Any] | None = field(
        default=None, metadata={"help": "The texts to keep; if left out, the model writes self_retain_rows texts itself."}
    )
    holdout_dataset: str | dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Texts of the forget set's kind that the model never saw: membership is told against them, and stop_at: auto rests on them."
        },
    )
    eval_dataset: dict[str, Any] | None = field(
        default=None, metadata={"help": "Further sets to evaluate: a mapping of names to sets, for example {facts: facts.jsonl}."}
    )
    eval_rows: int = field(
        default=128, metadata={"help": "Rows of each set that are evaluated before and after, evenly spaced over the set; 0 is all."}
    )

    def __post_init__(self) -> None:
        if self.eval_rows < 0:
            raise UserError(f"eval_rows: {self.eval_rows} is out of range, write a value of at least 0.")
        for name, spec in (self.eval_dataset or {}).items():
            if name in ("forget", "retain", "holdout") or not isinstance(spec, str | dict):
                raise UserError(f"eval_dataset: {name!r} must be a name of its own with a file, a Hub name or a mapping.")


def _check(model: Any) -> None:
    """Check a `ModelKnobs` with the fields of `ModelConfig`."""
    if not model.use_peft:
        raise UserError("use_peft: false is not possible, what is trained is an adapter; leave the key out.")
    for key, valid, hint in (
        ("lora_r", model.lora_r >= 1, "at least 1"),
        ("lora_alpha", model.lora_alpha > 0, "above 0"),
        ("lora_dropout", 0 <= model.lora_dropout < 1, "from 0 to below 1"),
        ("init_lora_weights", model.init_lora_weights in KEEPS_BASE, "true, gaussian or orthogonal, which leave the base as it is"),
    ):
        if not valid:
            raise UserError(f"{key}: {getattr(model, key)!r} is out of range, write a value {hint}.")
    if model.load_in_4bit and model.load_in_8bit:
        raise UserError("load_in_8bit: load_in_4bit is given as well, leave one of the two out.")
    quantised = "load_in_4bit" if model.load_in_4bit else "load_in_8bit" if model.load_in_8bit else None
    if quantised and model.dtype == "auto":
        raise UserError(f"dtype: 'auto' does not say what {quantised} computes in, write bfloat16, float16 or float32.")
    if quantised and model.adapter_name_or_path and model.adapter_mode == "merge":
        raise UserError(
            f"adapter_mode: 'merge' into a base with {quantised} would lose most of the adapter, write stack, "
            "or run `peft-unlearn merge` first and give its output as model_name_or_path."
        )
