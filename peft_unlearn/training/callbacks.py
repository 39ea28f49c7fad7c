"""Where the loop of `transformers.Trainer` lets a run in: before its first step, within each step, and after it, where it may end."""

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from peft_unlearn.training.early_stop import EarlyStop
from peft_unlearn.util import interrupts

REACHED, NO_NEARER, SPENT, MINUTES, STEPS = "reached", "no_nearer", "retain_kl_max", "max_minutes", "max_steps"
ENDS = (None, MINUTES, NO_NEARER, REACHED)


class AroundSteps(TrainerCallback):  # type: ignore[misc]  # annotations of transformers are not followed
    """Calls `begin` before the first step and `between` between the optimizer's and the scheduler's; saves a run, and ends it, when it is time.

    Attributes:
        why: why the run has ended: its targets are reached, it comes no nearer to them, its time or its steps are over, or it was outside its
            budget then; None while it goes on.
    """

    def __init__(self, begin: Callable[[], None], between: Callable[[], None], early_stop: EarlyStop | None):
        self.begin, self.between, self.early_stop = begin, between, early_stop
        self.why: str | None = None
        self.started = self.saved = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = self.saved = time.monotonic()
        self.why = self._why(args, self.started)  # a checkpoint may be of where its run ended
        control.should_training_stop |= self.why is not None or state.global_step >= state.max_steps
        self.begin()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.between()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        unsaved = bool(args.save_minutes) and now - self.saved >= 60 * args.save_minutes
        found = torch.tensor([ENDS.index(self._why(args, now)), interrupts.waiting(), unsaved])
        if args.world_size > 1:  # processes may differ in the last bit of what they measure, in time, and in whom a signal has come to
            found = found.to(args.device)
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        why, signal, unsaved = found.tolist()
        self.why = ENDS[why]
        interrupts.agree(signal)
        control.should_training_stop |= bool(why or signal)
        more = self.why == MINUTES and bool(args.save_minutes)  # what is out of time can be given more
        control.should_save |= bool(signal or unsaved or more)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved = time.monotonic()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.why = self.why or STEPS

    def _why(self, args: Any, now: float) -> str | None:
        if self.early_stop is not None and self.early_stop.reached:
            return REACHED
        if self.early_stop is not None and self.early_stop.stalled:
            return NO_NEARER
        late = args.max_minutes is not None and now - self.started >= 60 * args.max_minutes
        return MINUTES if late else None
