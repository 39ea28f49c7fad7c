"""Where the loop of `transformers.Trainer` lets a run in: before its first step, within each step, and after it, where it may end."""

import time
from collections.abc import Callable
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from peft_unlearn.training.early_stop import EarlyStop

REACHED, NO_NEARER, MINUTES, STEPS = "reached", "no_nearer", "max_minutes", "max_steps"


class AroundSteps(TrainerCallback):  # type: ignore[misc]  # annotations of transformers are not followed
    """Calls `begin` before the first step and `between` between the optimizer's and the scheduler's; ends a run that is where it is to stop.

    Attributes:
        why: why the run has ended: its targets are reached, it comes no nearer to them, or its time or its steps are over; None while it goes on.
    """

    def __init__(self, begin: Callable[[], None], between: Callable[[], None], early_stop: EarlyStop | None, max_minutes: float | None):
        self.begin, self.between, self.early_stop, self.max_minutes = begin, between, early_stop, max_minutes
        self.why: str | None = None
        self.started = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.why, self.started = None, time.monotonic()
        self.begin()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.between()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.early_stop is not None or self.max_minutes is not None:
            [self.why] = broadcast_object_list([self._why()])  # processes may differ in the last bit of what they measure, and in time
            control.should_training_stop |= self.why is not None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.why = self.why or STEPS

    def _why(self) -> str | None:
        if self.early_stop is not None and self.early_stop.reached:
            return REACHED
        if self.early_stop is not None and self.early_stop.pace.stalled:
            return NO_NEARER
        late = self.max_minutes is not None and time.monotonic() - self.started >= 60 * self.max_minutes
        return MINUTES if late else None
