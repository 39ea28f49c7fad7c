"""What keeps a run from ending in a state that is of no use: damage control after each step, a budget now and then, and both at the end."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from peft_unlearn.model.sharing import sharing
from peft_unlearn.training.components import Components
from peft_unlearn.training.damage import Moving
from peft_unlearn.training.negation import Negation
from peft_unlearn.util.errors import UserError

logger = logging.getLogger(__name__)

HALVINGS = 5  # of the way back into a budget


class Safety:
    """Looks after the states of a run.

    Args:
        components: damage control, a budget if there is one, and all that goes back with an adapter.
        moving: what a step moves, as it is now.
        negation: of the adapter, where it is negated at the end.
        every: steps between two looks at the budget.

    Attributes:
        step: of whose adapter a run has ended with; None before.
        way: how far it is from there towards where the run was last, a share; 0 is that adapter itself.
    """

    def __init__(self, components: Components, moving: Callable[[], Moving], negation: Negation | None, every: int):
        self.damage, self.budget, self.moving, self.negation, self.every = components.damage, components.budget, moving, negation, every
        self.step: int | None = None
        self.way = 0.0

    def begin(self) -> None:
        """A run begins; whatever was kept of another is not of this one."""
        self.damage.good, self.step, self.way = None, None, 0.0
        self.damage.recent.clear()

    def sound(self, step: int, retain: float, *, finite: bool) -> bool:
        """Whether the state after `step` steps is one to go on from, by its retain loss; if not, the run is back in the last good one.

        Raises:
            UserError: it went back often enough, or it is the first step.
        """
        wrong = self.damage.wrong(retain, finite=finite)
        if wrong is not None and self.damage.good is None:  # nothing has moved yet, and the same again would be no better
            raise UserError(self.damage.why(step + 1, wrong))
        if wrong is not None:
            self.damage.back(step + 1, wrong, self.moving())
        elif self.damage.good is None or (self.budget is None and self.damage.due(step)):
            self.damage.keep(step, self.moving())
        return wrong is None

    def spend(self, step: int) -> None:
        """Look at the budget, where it is time to, and keep a state inside, after `step` steps."""
        if self.budget is None or (step - 1) % self.every:
            return
        self._measure()
        if self.budget.inside:
            self.damage.keep(step, self.moving())

    def end(self, step: int, retain: float | None) -> bool:
        """See that a run which has ended after `step` steps has a good adapter; if not, it gets its last good one, or one on the way from there.

        Returns:
            Whether it left its budget, and came back.

        Raises:
            UserError: it has lost its retain set, or diverged.
        """
        wrong = None if retain is None else self.damage.wrong(retain, finite=True)
        if wrong is not None:
            self.damage.bring(self.moving())
            self.step = self.damage.step
            raise UserError(self.damage.why(step, wrong))
        self.step = step
        if self.budget is None:
            return False
        self._measure()
        if self.budget.inside or self.damage.good is None:
            return False
        self._come_back(step)
        return True

    @torch.no_grad()
    def _come_back(self, step: int) -> None:
        """From a state outside towards the last one inside, as little as brings it inside: a divergence falls on the straight way there."""
        assert self.budget is not None
        student, spent = [p.data for p in self.moving().student], self.budget.spent
        outside = [p.clone() for p in student]
        self.damage.bring(self.moving())
        inside, self.step = [p.clone() for p in student], self.damage.step
        for halving in range(1, HALVINGS + 1):
            way = self.way + 0.5**halving
            torch._foreach_copy_(student, torch._foreach_lerp(inside, outside, way))
            self._measure()
            if self.budget.inside:
                self.way = way
        torch._foreach_copy_(student, torch._foreach_lerp(inside, outside, self.way) if self.way else inside)
        logger.warning(
            "retain_kl_max: the divergence is %.3g nats a token after %d steps; the adapter of step %d is kept, the last one within, and %.0f %% of "
            "the way on from it, with %.3g.",
            spent,
            step,
            self.step,
            100 * self.way,
            self.budget.kept,
        )

    def facts(self, steps: int) -> dict[str, Any]:
        """What the report says of it."""
        found: dict[str, Any] = {"returned": [list(both) for both in self.damage.returned]}
        if self.budget is not None:
            found["retain_kl_max"] = self.budget.facts(self.damage.step if self.step is None else self.step, steps, self.way)
        return found

    @sharing()
    def _measure(self) -> None:
        """By all processes, with what the first one makes of it: on another machine a sum may end in another last bit, and so might a run."""
        assert self.budget is not None
        self.budget.measure(self._as_saved)
        self.budget.spent, self.budget.mean = broadcast_object_list([self.budget.spent, self.budget.mean])

    @contextlib.contextmanager
    def _as_saved(self) -> Iterator[None]:
        """With the adapter negated where it will be."""
        if self.negation is not None:
            self.negation.flip()
        try:
            yield
        finally:
            if self.negation is not None:
                self.negation.flip()
