"""The multiplier of a constraint, raised while the constraint is violated (dual ascent on the Lagrangian)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Lagrangian:
    """The multiplier λ of `loss <= bound`, for a run that minimizes objective + λ · loss.

    Each `update` moves it along the gradient of the Lagrangian in λ: λ <- max(0, λ + rate · (loss - bound)). It grows while the loss is above
    its bound, shrinks while the loss is below, and comes to rest where the two meet, or at 0 where the constraint does not bind.

    `bound` is in the units of the loss (nats a token for a cross-entropy), `rate` in λ per such unit and update. The loss of one batch is noisy:
    the smaller the rate, the more batches λ averages. A run that is far from its bound at the start can wait with the first update.

    Source: Entesari et al., 2025, arXiv 2506.05314 (PDU), with the retain loss as the constraint.
    """

    multiplier: float
    bound: float
    rate: float

    def update(self, loss: float) -> float:
        """λ after a step, or an epoch, whose mean loss was `loss`; NaN once a loss was NaN."""
        self.multiplier = max(self.multiplier + self.rate * (loss - self.bound), 0.0)  # in this order max hands a NaN on
        return self.multiplier

    def state_dict(self) -> dict[str, Tensor]:
        """The multiplier."""
        return {"multiplier": torch.tensor(self.multiplier, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the multiplier of a `state_dict`."""
        self.multiplier = state["multiplier"].item()
