"""The pace of a run that has targets: its learning rate by how near it is, and whether it still comes nearer."""

import math
from dataclasses import dataclass

FALL, LOWEST = 0.85, 0.05  # of the rate: at each check that is near, and at most
GAINED = 0.02  # share of the smallest miss by which a check must be nearer to count as progress
PATIENCE = 20  # checks without progress after which a run has ended where it can


@dataclass
class Pace:
    """What checks have found on the way.

    What still swings around a target is noise of the rate, so the rate falls while the forget set is near its targets and misses them. It rises
    again while only the retain set is missed, which lost something on the way and comes back the faster, the higher the rate.

    Attributes:
        rate: share of the learning rate that is used.
        best: the smallest miss so far, in tolerances: 1 is within tolerance.
        since: checks since then.
    """

    rate: float = 1.0
    best: float = math.inf
    since: int = 0

    def check(self, forget: float, retain: float, near: bool) -> None:
        """A check found the forget and the retain set so many tolerances off, and the forget set `near` its targets or far from them."""
        if near and forget > 1:
            self.rate = max(LOWEST, self.rate * FALL)
        elif near and retain > 1:
            self.rate = min(1.0, self.rate / FALL)
        miss = max(forget, retain)
        nearer = miss < self.best * (1 - GAINED)
        self.best, self.since = (miss, 0) if nearer else (self.best, self.since + 1)

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
