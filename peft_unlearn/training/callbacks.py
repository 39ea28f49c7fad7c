"""Where the loop of `transformers.Trainer` lets a run in: before its first step, within each step, and after it."""

from collections.abc import Callable
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from peft_unlearn.training.early_stop import EarlyStop


class AroundSteps(TrainerCallback):  # type: ignore[misc]  # annotations of transformers are not followed
    """Calls `begin` before the first step and `between` between the optimizer's and the scheduler's; ends a run that is where it is to stop."""

    def __init__(self, begin: Callable[[], None], between: Callable[[], None], early_stop: EarlyStop | None):
        self.begin, self.between, self.early_stop = begin, between, early_stop

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begin()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.between()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.early_stop is not None:
            ended = self.early_stop.reached or self.early_stop.pace.stalled
            [ended] = broadcast_object_list([ended])  # what the processes have measured may differ in a last bit
            control.should_training_stop |= ended
