"""The mathematics under the intervals: errors of means over rows that belong together, and the bounds of a binomial share.

docs/concepts/intervals.md says where each formula is from.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaincinv, stdtr, stdtrit

TAIL = 0.025  # on either side of a 95 % interval
FEW = 5  # groups: of fewer the spread between them says nothing
# Taken between rows of a group where these, few or all alike, cannot tell. Between two retrained models the differences of rows correlate by .02 on
# average (-.1 to .16 by metric; reports of benchmarks/planted.py).
CORRELATION = 0.03


class Spread(NamedTuple):
    """Of a mean: standard error, degrees of freedom, and skewness (third central moment over error^3)."""

    error: float
    freedom: float
    skew: float

    def reach(self) -> tuple[float, float]:
        """How far a 95 % interval reaches below and above the mean: t quantiles, moved for the skewness by Hall's cubic.

        Hall's t + skew t^2 / 3 + skew^2 t^3 / 27 + skew / 6 is nearer to Student's distribution than t itself, and rises with t.
        """
        t = quantile(self.freedom)
        if not math.isfinite(t) or abs(self.skew) < 1e-9:
            return t * self.error, t * self.error
        below, above = (3 * (np.cbrt(1 + self.skew * (y - self.skew / 6)) - 1) / self.skew for y in (t, -t))
        return float(below * self.error), float(-above * self.error)

    def p(self, mean: float) -> float:
        """Two-sided p-value of a true mean of zero: the larger of Student's and of that moved by the same cubic.

        The first is too small for skewed rows, the second for symmetric ones with long tails. Without a spread it is 0, or 1 of a mean of 0.
        """
        if not self.error:
            return float(mean == 0)
        t, skew = mean / self.error, self.skew
        moved = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6
        return float(2 * stdtr(self.freedom, -min(abs(t), abs(moved))))


def spread(values: np.ndarray, ids: np.ndarray) -> Spread:
    """Of the mean of n values in groups 0 to G - 1: (n,), (n,). Rows of one single group are taken as independent; one row has no finite error.

    Of fewer than `FEW` groups the rows' own spread is taken, with Kish's design effect.

    The error is the linearised ratio estimator's, in which each group's part is divided by 1 - its share of the rows: without bias for
    independent rows, and of groups of one size the t test's over their means. The skewness is shrunk by what the one of as many normal
    values would be by chance, 6 / G in variance.
    """
    if len(values) == 1:
        return Spread(math.inf, 0.0, 0.0)
    groups = int(ids.max()) + 1
    if 1 < groups < min(FEW, len(values)):
        alone, effective = spread(values, np.arange(len(values))), independent(ids)
        return Spread(alone.error * math.sqrt(len(values) / effective), max(effective - 1, 1.0), alone.skew)
    if groups == 1:
        ids = np.arange(len(values))
    weights = np.bincount(ids) / len(values)
    apart = np.bincount(ids, values - values.mean()) / len(values)
    freedom = _freedom(weights)
    squares = (apart**2).sum()
    skew = (apart**3).sum() / squares**1.5 * (freedom + 1) / (freedom + 7) if squares else 0.0
    return Spread(float(np.sqrt((apart**2 / (1 - weights)).sum())), freedom, float(skew))


def quantile(freedom: float, level: float = 1 - TAIL) -> float:
    """Student's t; infinite where there is no freedom, the normal's where it is infinite."""
    return float(stdtrit(min(freedom, 1e9), level)) if freedom > 0 else math.inf


def welch(*parts: tuple[float, float]) -> float:
    """Satterthwaite's degrees of freedom of a sum of independent parts, each an error and its freedom."""
    lost = sum(error**4 / freedom for error, freedom in parts if error)
    return float(sum(error**2 for error, _ in parts) ** 2 / lost) if lost else math.inf


def independent(ids: np.ndarray) -> float:
    """How many independent rows stand for grouped ones that are all alike: Kish's design effect at a correlation of .03."""
    sizes = np.bincount(ids)
    n = float(sizes.sum())
    return n if len(sizes) == 1 else float(n / (1 + ((sizes**2).sum() / n - 1) * CORRELATION))


def binomial(hits: float, n: float) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of a share, also of numbers that are not whole."""
    low = betaincinv(hits, n - hits + 1, TAIL) if hits > 0 else 0.0
    high = betaincinv(hits + 1, n - hits, 1 - TAIL) if hits < n else 1.0
    return float(low), float(high)


def least_auc(area: float, n: float, m: float) -> float:
    """The least AUC from which `area` is within 1.96 of Hanley and McNeil's standard errors there: Newcombe's fifth method, from below."""
    mean = (n + m) / 2 - 1

    def variance(a: float) -> float:
        return a * (1 - a) * (1 + mean * (1 - a) / (2 - a) + mean * a / (1 + a)) / (n * m)

    if area <= 1e-9:
        return 0.0
    return float(brentq(lambda a: area - a - quantile(math.inf) * math.sqrt(variance(a)), 0, area - 1e-9))


def _freedom(weights: np.ndarray) -> float:
    """Satterthwaite's degrees of freedom of sum(w^2 (m - mean)^2 / (1 - w)) over groups of w of the rows and of mean m: G - 1 of equal ones.

    The smaller of two extremes: the variance of a group's mean falls with its size (independent rows), or does not (rows of a group alike).
    """
    if np.ptp(weights) < 1e-12:
        return float(len(weights) - 1)
    a = weights**2 / (1 - weights)
    found = []
    for variance in (1 / weights, np.ones_like(weights)):
        # m_g - mean and m_h - mean have the covariance (g = h) variance_g + shared - u_g - u_h; here is the sum of a_g a_h covariance^2
        u, shared = weights * variance, (weights**2 * variance).sum()
        own, (a0, a1, a2) = shared - 2 * u, ((a * u**power).sum() for power in range(3))
        squares = shared**2 * a0**2 + 2 * a0 * a2 + 2 * a1**2 - 4 * shared * a0 * a1 + (a**2 * (variance**2 + 2 * variance * own)).sum()
        found.append((a * (variance + own)).sum() ** 2 / squares)
    return float(min(found))
