"""The keys of a recipe that are not the trainer's: the model and its adapter, and the data. Like `settings`, without torch."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from peft_unlearn.config import validation
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.gguf import UNPACKED, is_gguf
from peft_unlearn.util.ranges import Range

# Inits that leave the base's weights and outputs as they are; PiSSA, OLoRA, CorDA and LoftQ rewrite the base (measured: logits off by 1.1-1.3).
KEEPS_BASE = (True, "gaussian", "orthogonal")
STORAGE = ("uint8", "int8", "float16", "bfloat16", "float32", "float64")  # types in whose memory packed weights may lie


@dataclass
class ModelSettings:
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
    gguf_file: str | None = field(
        default=None,
        metadata={
            "help": "The GGUF file, or the first of its parts, in the folder or repository model_name_or_path; one here is named there by itself."
        },
    )
    use_peft: bool = field(default=True, metadata={"help": "Always true: what is trained is an adapter."})
    lora_r: Annotated[int, Range("from 1 to 8192")] = field(default=16, metadata={"help": "Rank of the adapter."})
    lora_alpha: Annotated[int, Range("above 0")] = field(
        default=32, metadata={"help": "The adapter's product is multiplied by lora_alpha / lora_r."}
    )
    lora_dropout: Annotated[float, Range("from 0 to below 1")] = field(
        default=0.0, metadata={"help": "LoRA dropout; 0.05 in the teacher is 23 % noise on its logits."}
    )
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
    reference_adapter_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Your own LoRA alone, where adapter_name_or_path has forgotten something already: what the retain set is held to, and "
            "before in the report. `peft-unlearn ledger` writes it."
        },
    )
    never_seen_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "A model that never saw the forget set: what the report compares with, and whose log-probabilities are the targets of "
            "stop_at: never_seen."
        },
    )

    def __post_init__(self) -> None:
        validation.check_values(self, ModelSettings)
        _check_together(self)


@dataclass
class DataArguments:
    """Which texts to forget, to keep and to evaluate: each a file, a Hub name, or a mapping with `load_dataset` keys."""

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
    eval_rows: Annotated[int, Range("at least 0")] = field(
        default=128, metadata={"help": "Rows of each set that are evaluated before and after, evenly spaced over the set; 0 is all."}
    )

    group_column: str | None = field(
        default=None,
        metadata={
            "help": "The column that says which rows belong together, for example author: intervals count rows of one group as dependent. If "
            "left out, a column such as author, document or title where there is one, or else neighbors in the file that share rare names."
        },
    )

    def __post_init__(self) -> None:
        validation.check_values(self, DataArguments)
        for name, spec in (self.eval_dataset or {}).items():
            named = isinstance(name, str) and name.strip() and name.isprintable() and name not in ("forget", "retain", "holdout")
            if not named or not spec or not isinstance(spec, str | dict):
                raise UserError(f"eval_dataset: {name!r} must be a name of its own with a file, a Hub name or a mapping.")


def _check_together(model: Any) -> None:
    """Check a `ModelSettings` with the fields of `ModelConfig`."""
    if not model.use_peft:
        raise UserError("use_peft: false is not possible, what is trained is an adapter; leave the key out.")
    if model.reference_adapter_name_or_path and not (model.adapter_name_or_path and model.adapter_mode == "stack"):
        raise UserError("reference_adapter_name_or_path: it is for adapter_mode: stack with an adapter_name_or_path, leave it out.")
    if model.init_lora_weights not in KEEPS_BASE:
        raise UserError(f"init_lora_weights: {model.init_lora_weights!r} changes the base, write true, gaussian or orthogonal.")
    if model.bnb_4bit_quant_storage not in (None, *STORAGE):
        raise UserError(f"bnb_4bit_quant_storage: {model.bnb_4bit_quant_storage!r} is not one of {', '.join(STORAGE)}.")
    if model.lora_task_type != "CAUSAL_LM":
        raise UserError(f"lora_task_type: {model.lora_task_type!r} is no causal language model, leave the key out.")
    if model.load_in_4bit and model.load_in_8bit:
        raise UserError("load_in_8bit: load_in_4bit is given as well, leave one of the two out.")
    quantized = "load_in_4bit" if model.load_in_4bit else "load_in_8bit" if model.load_in_8bit else None
    if quantized and is_gguf(model.model_name_or_path or ""):
        raise UserError(f"{quantized}: {UNPACKED.format(model.model_name_or_path)}.")
    if quantized and model.dtype == "auto":
        raise UserError(f"dtype: 'auto' does not say what {quantized} computes in, write bfloat16, float16 or float32.")
    if quantized and model.adapter_name_or_path and model.adapter_mode == "merge":
        raise UserError(
            f"adapter_mode: 'merge' into a base with {quantized} would lose most of the adapter, write stack, "
            "or run `peft-unlearn merge` first and give its output as model_name_or_path."
        )
