"""The pace of a run that has targets: its learning rate by how near it is, and whether it still comes nearer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

FALL, LOWEST = 0.85, 0.05  # of the rate: at a check, and in all
GAINED = 0.02  # share of what is missed by which a check must be nearer to count as progress
HEAVIEST = 4.0  # times that the retain set weighs, at most
PATIENCE = 20  # checks without progress after which a run has ended where it can


@dataclass
class Pace:
    """What checks have found on the way.

    What still swings around a target is noise of the rate, so the rate falls while the forget set is near its targets and misses them. It rises
    again while nothing but the retain set is missed: what that lost on the way comes back the faster, the higher the rate.

    Attributes:
        rate: share of the learning rate that is used.
        keep: by how much the objectives on the retain set weigh more than they are told to: as many times as it is missed, in tolerances.
        best: the least that was missed so far, in tolerances beyond the first.
        since: checks since then.
    """

    rate: float = 1.0
    keep: float = 1.0
    best: float = math.inf
    since: int = 0

    def check(self, misses: Sequence[float], retain: float, near: bool) -> None:
        """A check found the forget set's targets and the retain set missed by so many tolerances, and the forget set `near` or far."""
        forgotten, kept = max(misses) <= 1, retain <= 1
        if forgotten and not kept:
            self.rate = min(1.0, self.rate / FALL)
        elif near and not forgotten:
            self.rate = max(LOWEST, self.rate * FALL)
        self.keep = min(max(1.0, retain), HEAVIEST)
        missed = sum(max(0.0, miss - 1) for miss in (*misses, retain))
        nearer = missed < self.best * (1 - GAINED)
        self.best, self.since = (missed, 0) if nearer else (self.best, self.since + 1)

    @property
    def stalled(self) -> bool:
        """Whether it no longer comes nearer."""
        return self.since >= PATIENCE


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
