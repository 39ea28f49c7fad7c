"""What keeps a run from ending in a state that is of no use: damage control after each step, a budget now and then, and both at the end."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from accelerate.utils import broadcast_object_list

from peft_unlearn.model.sharing import sharing
from peft_unlearn.training.budget import PATIENCE
from peft_unlearn.training.components import Components
from peft_unlearn.training.damage import Moving
from peft_unlearn.training.negation import Negation
from peft_unlearn.util.errors import UserError

logger = logging.getLogger(__name__)


class Safety:
    """Looks after the states of a run.

    Args:
        components: damage control, a budget if there is one, and all that goes back with an adapter.
        moving: what a step moves, as it is now.
        negation: of the adapter, where it is negated at the end.
        every: steps between two looks at the budget.

    Attributes:
        step: of whose adapter a run has ended with; None before.
    """

    def __init__(self, components: Components, moving: Callable[[], Moving], negation: Negation | None, every: int):
        self.damage, self.budget, self.moving, self.negation, self.every = components.damage, components.budget, moving, negation, every
        self.targets = components.early_stop is not None
        self.step: int | None = None

    def begin(self) -> None:
        """A run begins; whatever was kept of another is not of this one."""
        self.damage.good, self.step = None, None
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

    def spend(self, step: int, *, reached: bool) -> None:
        """Look at the budget, where it is time to, or a run has `reached` its targets, and steer by it, after `step` steps.

        A run with targets shakes its retain set on the way to them, and may come back by itself until it is there.
        """
        if self.budget is None or not ((step - 1) % self.every == 0 or reached):
            return
        before = self.budget.spent
        self._measure()
        self.budget.steer(before)
        if self.budget.inside:
            self.damage.keep(step, self.moving())
        elif self.budget.outside >= PATIENCE and (reached or not self.targets):
            logger.warning(
                "retain_kl_max: the divergence is %.3g nats a token at step %d and comes no nearer to %.3g: back to step %d, at %.2g of the rate.",
                self.budget.spent,
                step,
                self.budget.limit,
                self.damage.step,
                self.budget.slower,
            )
            self.damage.bring(self.moving())
            self.damage.slow(self.moving(), self.budget.slower)
            self.budget.back()

    def end(self, step: int, retain: float | None) -> None:
        """See that a run which has ended after `step` steps has a good adapter; if not, it gets its last good one.

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
            return
        if self.budget.over:
            self.step = self.damage.step
            return
        self._measure()
        if self.budget.inside:
            self.budget.kept = self.budget.mean
        elif self.damage.good is not None:
            self.damage.bring(self.moving())
            self.step = self.damage.step
            logger.warning(
                "retain_kl_max: the divergence is %.3g nats a token after %d steps; the adapter of step %d is kept, the last one within, with %.3g.",
                self.budget.spent,
                step,
                self.step,
                self.budget.kept,
            )

    def facts(self, steps: int) -> dict[str, Any]:
        """What the report says of it."""
        found: dict[str, Any] = {"returned": [list(both) for both in self.damage.returned]}
        if self.budget is not None:
            found["retain_kl_max"] = self.budget.facts(self.damage.step if self.step is None else self.step, steps)
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
