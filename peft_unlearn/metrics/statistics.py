"""How sure a number is: bootstrap 95 % intervals over rows."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95

Interval = tuple[float, float]


def bootstrap(
    statistic: Callable[..., np.ndarray], *samples: Sequence[float] | np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Percentile interval of `statistic` over resampled rows.

    Args:
        statistic: maps one (R, n_i) array for each sample to (R,) values, R resamples at once.
        samples: the rows of each sample; each is resampled on its own.
        seed: of the resampling; the interval is a pure function of rows and seed.

    Returns:
        The 2.5 and 97.5 % quantiles; a sample of one row gives an interval of no width.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(sample, np.float64) for sample in samples]
    drawn = [array[rng.integers(len(array), size=(resamples, len(array)))] for array in arrays]
    low, high = np.quantile(statistic(*drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean_interval(rows: Sequence[float | None]) -> Interval | None:
    """Interval of the mean over the rows that have a finite value; None if there is none."""
    values = [value for value in rows if value is not None and np.isfinite(value)]
    return bootstrap(lambda drawn: drawn.mean(-1), values) if values else None


def paired_difference(before: Sequence[float | None], after: Sequence[float | None]) -> dict[str, Any] | None:
    """Mean of after - before over the rows measured in both, its interval and n: {"mean", "interval", "n"}; None if no row is.

    Rows are resampled as pairs: what varies between rows cancels, and only what changed within them counts.
    """
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None and np.isfinite([b, a]).all()]
    if not pairs:
        return None
    changes = np.array([a - b for b, a in pairs])
    return {"mean": float(changes.mean()), "interval": list(bootstrap(lambda drawn: drawn.mean(-1), changes)), "n": len(changes)}
