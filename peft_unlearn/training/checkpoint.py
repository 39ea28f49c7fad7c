"""What a checkpoint keeps beside adapter, optimiser and schedule: the teacher, and what AutoLR, the multiplier, landing and resistance remember."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from peft_unlearn.training.early_stop import EarlyStop
from peft_unlearn.util.errors import UserError

if TYPE_CHECKING:
    from peft_unlearn.training.trainer import UnlearnTrainer

FILE = "unlearning_state.safetensors"

# part of the trainer, where a run has it -> the attributes to keep
REMEMBERED = {"auto_lr": ("calibrated",), "lagrangian": ("multiplier",), "early_stop": EarlyStop.STATE}


def write(trainer: UnlearnTrainer, folder: Path) -> None:
    """Write the state of `trainer` into a checkpoint."""
    tensors = {str(i): p.detach().contiguous() for i, p in enumerate(trainer.teacher)}
    for part, names in REMEMBERED.items():
        if (found := getattr(trainer, part)) is not None:
            tensors[part] = torch.tensor([getattr(found, name) for name in names], dtype=torch.float64)
    if trainer.sam is not None:
        tensors["sam"] = trainer.sam.gradient.matrix
    save_file(tensors, folder / FILE)


def restore(trainer: UnlearnTrainer, folder: Path) -> None:
    """Bring the state of a checkpoint back.

    Raises:
        UserError: the checkpoint holds an adapter only.
    """
    if not (folder / FILE).is_file():
        raise UserError(f"resume_from_checkpoint: {folder} holds an adapter only (save_only_model), and no state to go on from.")
    saved = load_file(folder / FILE)
    for i, parameter in enumerate(trainer.teacher):
        parameter.data.copy_(saved[str(i)])
    if trainer.sam is not None:
        trainer.sam.gradient.matrix.copy_(saved["sam"])
    for part, names in REMEMBERED.items():
        if (found := getattr(trainer, part)) is not None:
            for name, value in zip(names, saved[part].tolist(), strict=True):
                setattr(found, name, value)
