"""The pace of a run that has targets: its learning rate by how near it is, and whether it still comes nearer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FALL, RISE, LOWEST = 0.7, 1.2, 0.05  # of the rate: at a check that finds a swing, at one that finds none, and in all
SAME_SIDE = 3  # checks on one side of a missed target after which the rate rises, or falls where the retain set is missed as well
GAINED = 0.02  # share of what is missed by which a check must be nearer to count as progress
HEAVIEST = 4.0  # times that the retain set weighs, at most
LAST_ANSWERS = 2.0  # tolerances of other answers up to which those not said are the last ones, said by one step and not by the next
STALE = 10  # checks without progress after which the rate falls for good, and again after as many more
PATIENCE, PASSES = 20, 10  # checks, and passes over the forget set, without progress after which a run has ended where it can


@dataclass
class Pace:
    """What checks have found on the way.

    Around its targets a run swings, and the swing is the larger, the higher the rate. So the rate falls at each check that finds a missed target on
    the other side than where it was missed last, and while only the last few of other answers are missed; and where for a while the forget set stays
    above a target and the retain set is missed as well, for of many rows each step then undoes what another has done. It rises again where one stays
    missed on the same side, or where for a while nothing swings and only that is missed which has no other side: the retain set, extraction strength,
    answers. It falls for good where for long no check was nearer: of many rows noise alone then keeps a run where it is.

    Attributes:
        rate: share of the learning rate that is used.
        top: up to which it may rise.
        keep, teach: by how much the objectives on the retain set, and that on other answers, weigh more than they are told to: as many times as they
            are missed, in tolerances; answers only near the targets, for on the way everything has to be learned yet.
        best: the least that was missed so far, in tolerances beyond the first.
        since: checks since then.
        above, below: checks in a row that found each of the two targets missed on that side.
        sides: where each was missed last: 1 above, -1 below.
        calm: checks since the last swing.
        opposed: checks in a row that found the forget set above a target, near it, and the retain set missed.
        patience: checks without progress after which it has stalled.
    """

    rate: float = 1.0
    top: float = 1.0
    keep: float = 1.0
    teach: float = 1.0
    best: float = math.inf
    since: int = 0
    above: tuple[int, int] = (0, 0)
    below: tuple[int, int] = (0, 0)
    sides: tuple[int, int] = (0, 0)
    calm: int = SAME_SIDE
    opposed: int = 0
    patience: int = PATIENCE

    def check(self, misses: Sequence[float], retain: float, near: bool, extraction: float = 0.0, answers: float = 0.0) -> None:
        """A check found this.

        Args:
            misses: by how many tolerances the forget set's mean and its membership are above their targets, below them if negative.
            retain: the same of what the retain set has lost.
            near: whether the forget set is near its targets.
            extraction, answers: by how many tolerances these are missed.
        """
        above, below = [miss > 1 for miss in misses], [miss < -1 for miss in misses]
        now = [high - low for high, low in zip(above, below, strict=True)]
        swung = any(one * before < 0 for one, before in zip(now, self.sides, strict=True))
        self.above, self.below = _counted(self.above, above), _counted(self.below, below)
        first, second = (one or before for one, before in zip(now, self.sides, strict=True))
        self.sides, self.calm = (first, second), 0 if swung else self.calm + 1
        others_alone = not any(now) and max(retain, extraction, answers) > 1
        stays = max(*self.above, *self.below) >= SAME_SIDE or (others_alone and self.calm >= SAME_SIDE)
        flips = not any(now) and max(retain, extraction) <= 1 < answers <= LAST_ANSWERS
        self.opposed = self.opposed + 1 if near and any(above) and retain > 1 else 0
        if near and (swung or flips or (self.opposed and self.opposed % SAME_SIDE == 0)):
            self.rate = max(LOWEST, self.rate * FALL)
        elif near and stays and not self.opposed:
            self.rate = min(self.top, self.rate * RISE)
        self.keep, self.teach = (min(max(1.0, miss), HEAVIEST) for miss in (retain, answers if near else 0.0))
        missed = sum(max(0.0, miss - 1) for miss in (*map(abs, misses), retain, extraction, answers))
        nearer = missed < self.best * (1 - GAINED)
        self.best, self.since = (missed, 0) if nearer else (self.best, self.since + 1)
        if self.since and self.since % STALE == 0:
            self.top = max(LOWEST, self.top * FALL)
        self.rate = min(self.rate, self.top)

    @property
    def stalled(self) -> bool:
        """Whether it no longer comes nearer."""
        return self.since >= self.patience

    def state(self) -> Tensor:
        """What checks have found, in one row."""
        return torch.tensor(
            [
                self.rate,
                self.top,
                self.keep,
                self.teach,
                self.best,
                self.since,
                *self.above,
                *self.below,
                *self.sides,
                self.calm,
                self.opposed,
            ],
            dtype=torch.float64,
        )

    @classmethod
    def of(cls, state: Tensor, patience: int = PATIENCE) -> "Pace":
        """What `state` was made of, with that patience."""
        rate, top, keep, teach, best, *counts = state.tolist()
        since, *pairs, calm, opposed = map(int, counts)
        above, below, sides = zip(pairs[::2], pairs[1::2], strict=True)
        return cls(rate, top, keep, teach, best, since, above, below, sides, calm, opposed, patience)


def patience(rows: int, seen: int) -> int:
    """Checks without progress after which a run over so many forget rows has stalled, of which it has `seen` some from one check to the next.

    Ten passes at least: of 400 rows, eight a step, 20 checks see each row four times (docs/log.md).
    """
    return max(PATIENCE, math.ceil(PASSES * rows / seen))


def _counted(before: tuple[int, int], missed: Sequence[bool]) -> tuple[int, int]:
    """Checks in a row, with one more of those that missed."""
    first, second = ((count + 1) * now for count, now in zip(before, missed, strict=True))
    return first, second


def steps_left(step: int, share: float, miss: float, every: int) -> int:
    """About how many steps a run needs yet: the rest of its way at the speed so far, and then some checks, more where it misses by more.

    Args:
        step: where it is.
        share: of the way to its targets.
        miss: in tolerances.
        every: steps between two checks.
    """
    way = step * (1 - share) / share if 0 < share < 1 else 0.0
    return math.ceil(way + every * (2 + 2 * math.log2(max(1.0, miss))))
