"""The automatic learning rate: GeN (arXiv 2407.02772) on the retain loss, as NGDiff uses it (arXiv 2410.22086).

Along the step s that the optimizer really took at rate lr, the retain loss is fitted by a parabola through w - s, w and w + s; its minimum lies at
w + ratio * s, so ratio * lr is the rate that suits the retain loss best. The guards are ours;
docs/concepts/automatic-learning-rate.md has them, docs/log.md the measurements behind them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

# A parabola through w +- s says little about what lies further away. Nor does the rate rise further over the calibrated one: once the retain
# loss has been damaged, only long steps seem to mend it, and 150 probes took the rate from 2.4e-3 to 1e-2, and the model with it (measured).
LOWEST, HIGHEST = 0.5, 2.0
SMOOTHING = 0.1  # share of the new estimate, as in GeN
# Of the loss: smaller differences are rounding. In bf16 the loss of the demo's model jitters by 1.2e-3 of itself when its weights move by 1e-6.
NOISE, HALF_NOISE = 1e-6, 2e-3
REACH = 4.0  # calibration moves no further at once
SETTLED = 0.1  # calibration ends where the parabola's minimum lies within this share of the point it was fitted at
TRIES = 20
EARLY = 10  # steps that each try to calibrate: where no minimum ever lay ahead, trying on made steps 3 times as long (measured)


def noise(half: bool) -> float:
    """The share of a loss below which differences are rounding, where a model computes in 16 bits (`half`) or in fp32."""
    return HALF_NOISE if half else NOISE


def ratio(plus: float, zero: float, minus: float, rounding: float = NOISE) -> float | None:
    """Minimum of the parabola through (-1, minus), (0, zero), (1, plus), or None where it has none ahead.

    None also where slope or curvature drown in rounding: unguarded, such fits sent the rate from 1e-2 to 1.6 within 8 steps (measured).
    """
    slope, curvature = (plus - minus) / 2, plus - 2 * zero + minus
    least = rounding * abs(zero)
    return -slope / curvature if slope < -least and curvature > least else None


@dataclass
class AutoLR:
    """The automatic learning rate.

    Args:
        maximum: the rate never exceeds it.
        every: optimizer steps between two probes.
        calibrated: the first rate found, 0 before.
        noise: share of the loss below which differences are rounding.
    """

    maximum: float
    every: int
    calibrated: float = 0.0
    noise: float = NOISE

    def state_dict(self) -> dict[str, Tensor]:
        """The calibrated rate; a checkpoint keeps the rate itself with optimizer and schedule."""
        return {"calibrated": torch.tensor(self.calibrated, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the calibrated rate of a `state_dict`."""
        self.calibrated = state["calibrated"].item()

    def due(self, step: int) -> bool:
        """Whether optimizer step number `step`, from 0, is to be probed."""
        return step % self.every == 0 or (not self.calibrated and step < EARLY)

    def probe(
        self,
        parameters: list[Tensor],
        start: list[Tensor],
        groups: list[dict[str, Any]],
        scheduler: LRScheduler,
        loss: Callable[[], float],
        here: float | None = None,
    ) -> None:
        """Probe the step that an optimizer of `groups` took from `start` to `parameters`, by the retain loss there, and set its rate.

        `here` is that loss at `start`, where it is known.

        A schedule takes its share of AutoLR's rate, so the step is probed as it would be without the schedule.
        """
        rate = float(scheduler.base_lrs[0])
        scheduled = groups[0]["lr"] / rate
        step = torch._foreach_div(torch._foreach_sub(parameters, start), scheduled)

        def move(share: float) -> None:
            torch._foreach_copy_(parameters, torch._foreach_add(start, step, alpha=share))

        def loss_at(share: float) -> float:
            move(share)
            return loss()

        share, rate = self.update(rate, loss_at, here)
        move(share * scheduled)
        for group in groups:
            group["lr"] = rate * scheduled
        scheduler.base_lrs = [rate for _ in groups]

    def update(self, lr: float, loss_at: Callable[[float], float], here: float | None = None) -> tuple[float, float]:
        """Probe the step s just taken at rate `lr`; `loss_at(x)` is the retain loss at w + x * s, on the rows of the step, `here` that at w.

        Returns:
            the share of the step to keep, and the rate from now on.
        """
        zero = loss_at(0.0) if here is None else here
        if not self.calibrated:
            share = self._calibrate(lr, zero, loss_at)
            return share, lr * share
        highest = min(self.maximum, HIGHEST * self.calibrated)
        found = ratio(loss_at(1.0), zero, loss_at(-1.0), self.noise)
        if found is None:
            return 1.0, lr
        found = min(max(found, LOWEST), HIGHEST)
        return 1.0, min(lr * (1 - SMOOTHING + SMOOTHING * found), highest)

    def _calibrate(self, lr: float, zero: float, loss_at: Callable[[float], float]) -> float:
        """Find the share x of the first step at which the parabola through -x, 0, x has its minimum at x, so that the start does not matter.

        A parabola fitted too far out puts its minimum too far: 5e-3 fitted at 1e-2 where the loss along the step is lowest at 2.4e-3 (measured).

        Without a minimum ahead the step is only held under the maximum, and the next step tries again.
        """
        longest = self.maximum / lr
        x = start = min(1.0, longest)
        for _ in range(TRIES):
            found = ratio(loss_at(x), zero, loss_at(-x), self.noise)
            if found is not None and abs(found - 1) <= SETTLED:
                share = min(x * found, longest)
                self.calibrated = lr * share
                return share
            step = REACH if found is None else min(max(found, 1 / REACH), REACH)
            if step > 1 and x >= longest:
                break
            x = min(x * step, longest)
        return start
