"""The parts of a run that remember something from one step to the next. Each is there only where the settings ask for it."""

from typing import NamedTuple

from peft import PeftModel

from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.model import adapters
from peft_unlearn.training import auto_lr
from peft_unlearn.training.accumulation import Accumulation
from peft_unlearn.training.auto_lr import AutoLR
from peft_unlearn.training.budget import Budget
from peft_unlearn.training.checkpoint import Component
from peft_unlearn.training.damage import Damage
from peft_unlearn.training.early_stop import EarlyStop
from peft_unlearn.training.gradients import dtype_of_sums
from peft_unlearn.training.lagrangian import Lagrangian
from peft_unlearn.training.sam import Sam
from peft_unlearn.training.teacher import Teacher


class Components(NamedTuple):
    """What a checkpoint keeps beside adapter, optimizer and schedule."""

    teacher: Teacher | None
    auto_lr: AutoLR | None
    lagrangian: Lagrangian | None
    sam: Sam | None
    early_stop: EarlyStop | None
    budget: Budget | None
    damage: Damage
    accumulation: Accumulation | None = None  # from when a step can be taken

    def by_key(self) -> dict[str, Component]:
        """Those that are there, by the recipe key that asks for each; of two that are always there, by what they look after."""
        keys = ("teacher_decay", "auto_lr", "retain_bound", "sam_rho", "stop_at", "retain_kl_max", "damage", "per_device_train_batch_size")
        return {key: part for key, part in zip(keys, self, strict=True) if part is not None}

    def going_back(self) -> dict[str, Component]:
        """Those that go back with the adapter when a run does."""
        found = self._replace(sam=None, budget=None, accumulation=None).by_key()
        return {key: part for key, part in found.items() if key != "damage"}


def make(args: UnlearnConfig, model: PeftModel, early_stop: EarlyStop | None, budget: Budget | None) -> Components:
    """The components of a run of these settings on a model with student and, with `teacher_decay`, teacher."""
    half = args.bf16 or args.fp16 or model.dtype.itemsize == 2
    student = adapters.adapter_parameters(model, adapters.STUDENT)
    decay = args.teacher_decay
    return Components(
        None if decay is None else Teacher(adapters.adapter_parameters(model, adapters.TEACHER), decay),
        AutoLR(args.auto_lr_max, args.auto_lr_steps, noise=auto_lr.noise(half)) if args.auto_lr else None,
        None if args.retain_bound is None else Lagrangian(args.retain_coef, args.retain_bound, args.lagrangian_rate),
        Sam(student, adapters.lora_b(model).values(), args.sam_rho, dtype_of_sums(args)) if args.sam_rho else None,
        early_stop,
        budget,
        # A negated adapter is not what it will be, and OpenUnlearning's code, which a run stands beside, goes on.
        Damage(None if args.negate or args.definitions == "openunlearning" else model.config.get_text_config().vocab_size),
    )
