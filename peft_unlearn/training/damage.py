"""Damage control: a run that diverges, or loses its retain set, goes back to its last good state and on at half the rate.

Whether a state is good is told by what a step computes anyway: its losses and gradients are finite, and the retain rows of the steps so far are
not lost. Good states are kept on the host. Random states and the pairing of rows do not go back: the rows of a bad step are not met again at once.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils._pytree import tree_map_only

from peft_unlearn.training.checkpoint import Component
from peft_unlearn.training.sam import Sam
from peft_unlearn.util.errors import UserError

logger = logging.getLogger(__name__)

EVERY = 10  # steps between two good states
RETURNS = 3  # at most; the next one ends the run
SLOWER = 0.5  # of the learning rate, after each
WINDOW = 5  # steps, of which most must have lost the retain set: the loss of one batch is noisy
# The retain set is lost where its loss has come half the way to that of guessing, and by so many nats a token. What a first step at a high rate
# shakes stays under it and comes back: by 1.9 in a model of 1,536 tokens at the defaults, and in most of five steps by 3.6 in one of 64 tokens at
# ten times the rate (measured).
SHARE, LEAST = 0.5, 4.0
CALM = 0.75  # of the way there; no state beyond is kept as a good one

NOT_FINITE = "a loss or its gradient turned NaN or infinite"


@dataclass
class Moving:
    """What a step moves, beside what is random.

    Attributes:
        components: those that go back with the adapter, by their keys.
        sam: a turn of it that is cut is forgotten.
    """

    student: Sequence[Tensor]
    optimizer: Any
    scheduler: LRScheduler
    components: Mapping[str, Component]
    sam: Sam | None

    def copied(self) -> dict[str, Any]:
        """All of it on the host."""
        components = {key: part.state_dict() for key, part in self.components.items()}
        state = {"student": list(self.student), "optimizer": self.optimizer.state_dict(), "components": components}
        state["rates"] = list(getattr(self.scheduler, "base_lrs", ()))  # ReduceLROnPlateau has none
        return dict(_copied(state))

    @torch.no_grad()
    def take(self, state: Mapping[str, Any]) -> None:
        """Go back to what `copied` gave."""
        state = _copied(state)  # an optimizer keeps the tensors that it is given
        torch._foreach_copy_([p.data for p in self.student], [p.to(self.student[0].device) for p in state["student"]])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["rates"]:
            self.scheduler.base_lrs = state["rates"]
        for key, part in self.components.items():
            part.load_state_dict(state["components"][key])
        if self.sam is not None:
            self.sam.gradient.zero_()


def _copied(state: Any) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), state)


class Damage:
    """The last good state of a run, and how often it has gone back to one.

    Args:
        vocabulary: V; guessing costs ln V nats a token. None: the retain set is not watched.

    Attributes:
        slower: share of the learning rate that is left.
        good: what was kept, see `Moving`; None before the first step.
        step: steps taken until then.
        returned: of each return the step that was bad, and the one gone back to.
    """

    def __init__(self, vocabulary: int | None):
        self.vocabulary = vocabulary
        self.slower = 1.0
        self.good: dict[str, Any] | None = None
        self.step = 0
        self.start = math.nan  # the retain loss of the first step
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.returned: list[tuple[int, int]] = []

    def limit(self, share: float = 1.0) -> float:
        """The retain loss, in nats a token, from which on the retain set is lost; or a share of the way there."""
        return self.start + share * max(LEAST, SHARE * (math.log(self.vocabulary or 1) - self.start))

    def wrong(self, retain: float, *, finite: bool) -> str | None:
        """What is wrong with a state whose step has this retain loss, and losses and gradients that are `finite` or not; None if nothing is."""
        if not finite or not math.isfinite(retain):
            return NOT_FINITE
        self.start = retain if math.isnan(self.start) else self.start
        self.recent.append(retain)
        lost = self.vocabulary is not None and sum(loss > self.limit() for loss in self.recent) > WINDOW // 2
        return f"the retain set was lost, its loss rose from {self.start:.3g} to {retain:.3g} nats a token" if lost else None

    def due(self, step: int) -> bool:
        """Whether this state, in which nothing is wrong, is to be kept: from time to time, and where nothing is going wrong either."""
        calm = self.vocabulary is None or max(self.recent) <= self.limit(CALM)
        return step % EVERY == 0 and calm

    def keep(self, step: int, moving: Moving) -> None:
        """A good state, after `step` steps."""
        self.good, self.step = {"slower": self.slower, **moving.copied()}, step

    def back(self, step: int, wrong: str, moving: Moving) -> None:
        """Go back from a step, by its number from 1, in which something is wrong.

        Raises:
            UserError: it went back often enough; then the good state is what is left.
        """
        self.bring(moving)
        if len(self.returned) == RETURNS:
            raise UserError(self.why(step, wrong))
        self.returned.append((step, self.step))
        logger.warning(
            "%s at step %d: back to step %d, at %g of the learning rate.", _capital(wrong), step, self.step, self.slower * SLOWER
        )
        self.slow(moving)

    def bring(self, moving: Moving) -> None:
        """Go back to the last good state."""
        assert self.good is not None
        moving.take(self.good)
        self.recent.clear()

    def slow(self, moving: Moving) -> None:
        """Go on at a share of the rate, of what it was when the run came here last."""
        assert self.good is not None
        self.slower *= SLOWER
        for group in moving.optimizer.param_groups:  # where no schedule sets it again
            group["lr"] *= self.slower / self.good["slower"]

    def why(self, step: int, wrong: str) -> str:
        """Why a run ends that is left in its last good state."""
        again = f", after {len(self.returned)} returns to an earlier step at half the rate each" if self.returned else ""
        return (
            f"learning_rate: {wrong} at step {step}{again}; the adapter of step {self.step} is kept, "
            "write a lower learning_rate or set max_grad_norm."
        )

    def state_dict(self) -> dict[str, Tensor]:
        """All but the good state itself, which has a file of its own in a checkpoint."""
        numbers = (self.slower, self.step, self.start, *self.recent)
        returned = torch.tensor(self.returned, dtype=torch.int64).view(-1, 2)
        return {"numbers": torch.tensor(numbers, dtype=torch.float64), "returned": returned}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what a `state_dict` says."""
        self.slower, step, self.start, *recent = state["numbers"].tolist()
        self.step, self.recent = int(step), deque(recent, maxlen=WINDOW)
        self.returned = [(bad, good) for bad, good in state["returned"].tolist()]


def slowed(scheduler: LRScheduler, damage: Damage) -> LRScheduler:
    """The schedule at the share of its rate that damage control leaves."""

    def of(schedule: Callable[[int], float]) -> Callable[[int], float]:
        return lambda step: schedule(step) * damage.slower

    if isinstance(scheduler, LambdaLR):  # others set their rates by what evaluations find
        scheduler.lr_lambdas = [of(schedule) for schedule in scheduler.lr_lambdas]
    return scheduler


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
