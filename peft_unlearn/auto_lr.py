"""The automatic learning rate: GeN (arXiv 2407.02772) on the retain loss, as NGDiff uses it (arXiv 2410.22086).

Along the step s that the optimiser really took at rate lr, the retain loss is fitted by a parabola through w - s, w and w + s; its minimum lies at
w + ratio * s, so ratio * lr is the rate that suits the retain loss best.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

LOWEST, HIGHEST = 0.5, 2.0  # a parabola through w +- s says little about what lies further away
SMOOTHING = 0.1  # share of the new estimate, as in GeN
NOISE = 3e-7  # relative; differences of fp32 losses below it are rounding


def ratio(plus: float, zero: float, minus: float) -> float | None:
    """Minimum of the parabola through (-1, minus), (0, zero), (1, plus), or None where it has none ahead.

    None also where slope or curvature drown in fp32 rounding: unguarded, such fits sent the rate from 1e-2 to 1.6 within 8 steps (measured).
    """
    slope, curvature = (plus - minus) / 2, plus - 2 * zero + minus
    noise = NOISE * abs(zero)
    if not (slope < -noise and curvature > noise):
        return None
    return -slope / curvature


@dataclass
class AutoLR:
    """The rate and what is remembered between probes; `asdict` of it is its whole state.

    Args:
        maximum: the rate never exceeds it.
        calibrated: whether the rate has been found by `calibrate`.
    """

    maximum: float
    calibrated: bool = False

    def update(self, lr: float, loss_at: Callable[[float], float]) -> tuple[float, float]:
        """One probe. `loss_at(x)` is the retain loss at w + x * s, with s the step just taken at rate `lr`.

        Returns:
            the share of the step to keep, and the rate from now on.
        """
        zero = loss_at(0.0)
        if not self.calibrated:
            scale = self._calibrate(lr, zero, loss_at)
            return scale, min(lr * scale, self.maximum)
        found = ratio(loss_at(1.0), zero, loss_at(-1.0))
        if found is None:
            return 1.0, lr
        found = min(max(found, LOWEST), HIGHEST)
        return 1.0, min(lr * (1 - SMOOTHING + SMOOTHING * found), self.maximum)

    def _calibrate(self, lr: float, zero: float, loss_at: Callable[[float], float]) -> float:
        raise NotImplementedError

    def state(self) -> dict:
        return asdict(self)
