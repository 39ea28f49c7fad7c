"""The pace of a run that has targets: its learning rate by how near it is, and whether it still comes nearer."""

import math
from dataclasses import dataclass

FALL, LOWEST = 0.85, 0.05  # of the rate: at each check that is near, and at most
GAINED = 0.02  # share of the smallest miss by which a check must be nearer to count as progress
PATIENCE = 20  # checks without progress after which a run has ended where it can


@dataclass
class Pace:
    """What checks have found on the way.

    What still swings around a target is noise of the rate, so the rate falls while a run is near, whatever its number of steps.

    Attributes:
        rate: share of the learning rate that is used.
        best: the smallest miss so far, in tolerances: 1 is within tolerance.
        since: checks since then.
    """

    rate: float = 1.0
    best: float = math.inf
    since: int = 0

    def check(self, miss: float, near: bool) -> None:
        """A check found the run `miss` tolerances off its targets, and `near` or far from them."""
        if near:
            self.rate = max(LOWEST, self.rate * FALL)
        nearer = miss < self.best * (1 - GAINED)
        self.best, self.since = (miss, 0) if nearer else (self.best, self.since + 1)

    @property
    def stalled(self) -> bool:
        """Whether it no longer comes nearer."""
        return self.since >= PATIENCE
