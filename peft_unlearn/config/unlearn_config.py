"""The settings of a run as transformers and TRL take them: their own dataclasses with our settings on top."""

from dataclasses import dataclass, fields

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from trl.trainer.model_config import ModelConfig

from peft_unlearn.config.model_settings import ModelSettings
from peft_unlearn.config.settings import TrainingSettings
from peft_unlearn.config.validation import SHARDED
from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError

# What `accelerate launch` may be told to use, by its environment variable.
ENGINES = {"FSDP": "FSDP", "DEEPSPEED": "DeepSpeed", "MEGATRON_LM": "Megatron-LM", "PARALLELISM_CONFIG": "a parallelism config"}
TOGETHER = boundary("recipe: these keys do not go together", "change or leave out what it names")


@dataclass
class UnlearnConfig(TrainingSettings, TrainingArguments):  # type: ignore[misc]  # which mypy does not look into
    """Settings of an [`UnlearnTrainer`], on top of [`~transformers.TrainingArguments`].

    A setting left at None takes the value that `method` gives it (see `peft_unlearn.config.methods`).

    Raises:
        UserError: a value outside its choices or its range, or a key that unlearning would ignore; the message names the key.
    """

    def __post_init__(self) -> None:
        TrainingSettings.__post_init__(self)
        for flag, engine in ENGINES.items():
            if parse_flag_from_env(f"ACCELERATE_USE_{flag}"):
                raise UserError(f"accelerate: it was told to use {engine}; {SHARDED}.")
        given = self.accelerator_config if isinstance(self.accelerator_config, dict) else {}
        if unknown := sorted(given.keys() - {field.name for field in fields(AcceleratorConfig)}, key=str):
            raise UserError(f"accelerator_config: there is no parameter {unknown[0]!r}, take it out.")
        with TOGETHER:
            TrainingArguments.__post_init__(self)
        if self.n_gpu > 1:  # transformers would wrap the model into DataParallel
            raise UserError(
                f"accelerate: one process sees {self.n_gpu} GPUs; train with --processes {self.n_gpu}, or show it one (CUDA_VISIBLE_DEVICES=0)."
            )


@dataclass
class ModelArguments(ModelSettings, ModelConfig):  # type: ignore[misc]
    """The base model, its precision, and the adapter."""

    def __post_init__(self) -> None:
        ModelSettings.__post_init__(self)
        with TOGETHER:
            ModelConfig.__post_init__(self)  # type: ignore[no-untyped-call]
        if self.dtype is None:
            self.dtype = "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
        if isinstance(self.lora_target_modules, str) and self.lora_target_modules != "all-linear":
            self.lora_target_modules = [self.lora_target_modules]  # PEFT takes a bare string for a regular expression on whole paths
