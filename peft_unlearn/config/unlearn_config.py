"""The settings of a run as transformers and TRL take them: their own dataclasses with our knobs on top."""

from dataclasses import dataclass

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from trl import ModelConfig

from peft_unlearn.config.model_settings import ModelKnobs
from peft_unlearn.config.settings import Knobs
from peft_unlearn.config.validation import SHARDED
from peft_unlearn.util.errors import UserError


@dataclass
class UnlearnConfig(Knobs, TrainingArguments):
    """Settings of an [`UnlearnTrainer`], on top of [`~transformers.TrainingArguments`].

    A knob left at None takes the value that `method` gives it (see `peft_unlearn.methods`).

    Raises:
        UserError: a value outside its choices or its range, or a key that unlearning would ignore; the message names the key.
    """

    def __post_init__(self) -> None:
        Knobs.__post_init__(self)
        if parse_flag_from_env("ACCELERATE_USE_FSDP") or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
            raise UserError(f"accelerate: it was told to use FSDP or DeepSpeed; {SHARDED}.")
        TrainingArguments.__post_init__(self)


@dataclass
class ModelArguments(ModelKnobs, ModelConfig):  # type: ignore[misc]
    """The base model, its precision, and the adapter."""

    def __post_init__(self) -> None:
        ModelKnobs.__post_init__(self)
        ModelConfig.__post_init__(self)
        if self.dtype is None:
            self.dtype = "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
        if isinstance(self.lora_target_modules, str) and self.lora_target_modules != "all-linear":
            self.lora_target_modules = [self.lora_target_modules]  # PEFT takes a bare string for a regular expression on whole paths
