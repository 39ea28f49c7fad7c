"""How sure a number is: 95 % intervals of means, shares and their sums, over rows or over groups of rows that belong together."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import betaincinv, stdtrit
from scipy.stats import rankdata

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
RESAMPLES = 2000
CORRELATION = 0.3  # taken between rows of a group where the rows, being all alike, cannot tell

Interval = tuple[float, float]
Rows = Sequence[float | None] | np.ndarray
Groups = Sequence[int] | np.ndarray | None


class Estimate(NamedTuple):
    """A number and how sure it is.

    mean, low, high: the number and its two-sided 95 % interval; infinite ends where rows cannot tell, all NaN where a row is not finite.
    error, freedom: standard error, and the degrees of freedom behind it.
    n, groups: rows, and groups of rows that belong together (n of them where each row stands on its own).
    effective: independent rows that an exact bound rests on; None where the interval is a t interval.
    """

    mean: float
    low: float
    high: float
    error: float
    freedom: float
    n: int
    groups: int
    effective: float | None = None

    @property
    def interval(self) -> list[float] | None:
        """[low, high], None where an end is not finite."""
        return [self.low, self.high] if math.isfinite(self.low) and math.isfinite(self.high) else None


def mean_estimate(rows: Rows, groups: Groups = None, bounds: Interval | None = None) -> Estimate | None:
    """Mean of the rows that have a value (None: no value) with a t interval; None where no row has one.

    With groups the interval is cluster-robust: the linearised ratio estimator, each group's share of the error divided by 1 - its share of
    the rows, and Satterthwaite's degrees of freedom, G - 1 where groups are of one size. Rows that all stand in one group are taken as
    independent, as nothing tells how groups differ; `groups` is then 1. One row has no finite interval.

    Args:
        rows: NaN or infinite ones are not left out: the mean and its interval are then NaN.
        groups: an id for each row, also for those without a value; None or () where each row stands on its own.
        bounds: the least and the largest value that a row can have. The interval keeps within, and has a width also where all rows are alike:
            of n rows that all are x, a share 1 - .025^(1/n) of all rows may still be at a bound (the exact binomial bound).

    Sources: docs/concepts/intervals.md.
    """
    values, ids = _measured(rows, groups)
    n, count = len(values), len(np.unique(ids))
    if n == 0:
        return None
    if not np.isfinite(values).all():
        return Estimate(math.nan, math.nan, math.nan, math.nan, math.nan, n, count)
    mean = float(values.mean())
    if bounds is not None and (values == values[0]).all():
        return _alike(float(values[0]), ids, bounds)
    error, freedom = spread(values, ids)
    reach = quantile(freedom) * error if n > 1 else math.inf
    least, most = bounds or (-math.inf, math.inf)
    return Estimate(mean, max(mean - reach, least), min(mean + reach, most), error, freedom, n, count)


def share_estimate(hits: Sequence[bool | None] | Rows, groups: Groups = None) -> Estimate | None:
    """Share of hits with the exact interval of Clopper and Pearson, with groups on Korn and Graubard's effective number of rows.

    That number is what independent rows would need for the same standard error, at most n, and less by the quantiles' ratio where few groups
    tell the error. Where all rows are alike, rows of a group are taken to correlate by .3. None where no row has a value (None: no value).
    """
    values, ids = _measured(hits, groups)
    n, count = len(values), len(np.unique(ids))
    if n == 0:
        return None
    share, effective = float(values.mean()), _alone(ids)
    if count < n and 0 < share < 1:
        error, freedom = spread(values, ids)
        effective = min(share * (1 - share) / error**2 if error else n, n) * (quantile(n - 1) / quantile(freedom)) ** 2
        effective = min(effective, n)
    low, high = _binomial(share * effective, effective)
    return Estimate(share, low, high, max(share - low, high - share) / quantile(math.inf), math.inf, n, count, effective)


def total(*parts: tuple[float, Estimate]) -> Estimate:
    """Sum of weight x estimate over independent estimates.

    The ends of each part's interval, in units of its own t quantile, stand for its standard error on that side, and freedom is Welch's and
    Satterthwaite's. Of t intervals this is Welch's; of exact ones, which are not symmetric, the recovered variances of Zou and Donner.
    """
    mean = sum(weight * part.mean for weight, part in parts)
    error = math.sqrt(sum((weight * part.error) ** 2 for weight, part in parts))
    n, groups = (sum(getattr(part, name) for _, part in parts) for name in ("n", "groups"))
    if not math.isfinite(error):
        ends = (math.nan, math.nan) if math.isnan(error) else (-math.inf, math.inf)
        return Estimate(mean, *ends, error, min(part.freedom for _, part in parts), n, groups)
    lost = sum((weight * part.error) ** 4 / part.freedom for weight, part in parts)
    freedom = error**4 / lost if lost else math.inf
    below = _reach(
        [weight * ((part.mean - part.low) if weight > 0 else (part.high - part.mean)) / quantile(part.freedom) for weight, part in parts]
    )
    above = _reach(
        [weight * ((part.high - part.mean) if weight > 0 else (part.mean - part.low)) / quantile(part.freedom) for weight, part in parts]
    )
    return Estimate(mean, mean - quantile(freedom) * below, mean + quantile(freedom) * above, error, freedom, n, groups)


def paired_difference(before: Rows, after: Rows, groups: Groups = None, bounds: Interval | None = None) -> dict[str, Any] | None:
    """Mean of after - before over the rows measured in both, its interval and n: {"mean", "interval", "n"}; None if no row is.

    What varies between rows cancels, and only what changed within them counts. The interval is None where there is one row or a row is not
    finite; of the latter the mean is NaN.
    """
    changes = [None if b is None or a is None else a - b for b, a in zip(before, after, strict=True)]
    found = mean_estimate(changes, groups, bounds)
    return found and {"mean": found.mean, "interval": found.interval, "n": found.n}


def auc_estimate(members: Rows, others: Rows, groups: tuple[Groups, Groups] = (None, None)) -> Estimate:
    """AUC of members over others, P(member > other) + P(equal) / 2, with DeLong's standard error, cluster-robust where sides have groups.

    None is no value and infinite values rank at the ends. All is NaN where a value is NaN or a side has none.
    """
    (above, ids), (below, other_ids) = _placed(members, others, groups)
    return _two_sides(mean_estimate(above, ids, (0, 1)), mean_estimate(below, other_ids, (0, 1)), (0, 1))


def auc_difference(pair: tuple[Rows, Rows], pair0: tuple[Rows, Rows], groups: tuple[Groups, Groups] = (None, None)) -> Estimate:
    """AUC of `pair` (members, others) - AUC of `pair0`, the same rows under another model, with DeLong's standard error of the difference."""
    members, others = (_common(*rows) for rows in zip(pair, pair0, strict=True))
    sides = zip(_placed(members[0], others[0], groups), _placed(members[1], others[1], groups), strict=True)
    found = [mean_estimate(a - b, ids, (-1, 1)) for (a, ids), (b, _) in sides]
    return _two_sides(found[0], found[1], (-1, 1))


def power(estimate: Estimate) -> float:
    """The smallest true excess over zero that as many rows show as above zero in 95 of 100 cases.

    (t.975 + t.95) standard errors; where an exact bound holds, the share of rows of which at least one is among them: 1 - .05^(1/n).
    """
    if estimate.effective is not None:
        return float(1 - 0.05 ** (1 / estimate.effective))
    return (quantile(estimate.freedom) + quantile(estimate.freedom, 0.95)) * estimate.error


def rows_needed(estimate: Estimate, limit: float) -> int | None:
    """About how many rows bring the upper end below `limit` in 80 of 100 cases, if mean and spread stay; None where the mean is not below."""
    room = limit - estimate.mean
    if not room > 0 or not math.isfinite(estimate.error):
        return None
    if estimate.effective is not None and estimate.mean == 0:
        reach = estimate.high / (1 - TAIL ** (1 / estimate.effective))
        wanted = math.log(TAIL) / math.log1p(-room / reach) if room < reach else 1
        return math.ceil(wanted * estimate.n / estimate.effective)
    return math.ceil(estimate.n * ((quantile(math.inf) + quantile(math.inf, 0.8)) * estimate.error / room) ** 2)


def quantile(freedom: float, level: float = 1 - TAIL) -> float:
    """Student's t, infinite where there is no freedom."""
    return float(stdtrit(min(freedom, 1e9), level)) if freedom > 0 else math.inf


def spread(values: np.ndarray, ids: np.ndarray) -> tuple[float, float]:
    """Standard error of the mean of (n,) values with (n,) group ids, and its degrees of freedom: (infinite, 0) of one row."""
    n = len(values)
    if n == 1:
        return math.inf, 0.0
    ids = np.unique(ids, return_inverse=True)[1]
    if ids.max() == 0:
        ids = np.arange(n)
    weights = np.bincount(ids) / n
    apart = np.bincount(ids, values - values.mean()) / n
    return float(np.sqrt((apart**2 / (1 - weights)).sum())), _freedom(weights)


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
    low, high = np.quantile(statistic(*drawn), [TAIL, 1 - TAIL])
    return float(low), float(high)


def mean_interval(rows: Rows) -> list[float] | None:
    found = mean_estimate(rows)
    return found and found.interval


def _measured(rows: Rows, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """The values that there are and their groups' ids."""
    ids = groups if groups is not None and len(groups) else range(len(rows))
    kept = [(float(value), group) for value, group in zip(rows, ids, strict=True) if value is not None]
    return np.array([value for value, _ in kept]), np.array([group for _, group in kept])


def _freedom(weights: np.ndarray) -> float:
    """Satterthwaite's degrees of freedom of sum(w^2 (m - mean)^2 / (1 - w)) over groups of w of the rows and of mean m: G - 1 of equal ones.

    The smaller of two extremes: the variance of a group's mean falls with its size (independent rows), or does not (rows of a group alike).
    """
    if np.ptp(weights) < 1e-12:
        return float(len(weights) - 1)
    a = weights**2 / (1 - weights)
    found = []
    for variance in (1 / weights, np.ones_like(weights)):
        # the covariance of m_g - mean and m_h - mean is (g = h) variance_g + shared - u_g - u_h
        u, shared = weights * variance, (weights**2 * variance).sum()
        own, moments = shared - 2 * u, [(a * u**power).sum() for power in range(3)]
        off = shared**2 * moments[0] ** 2 + 2 * moments[0] * moments[2] + 2 * moments[1] ** 2 - 4 * shared * moments[0] * moments[1]
        squares = off + (a**2 * (variance**2 + 2 * variance * own)).sum()
        found.append((a * (variance + own)).sum() ** 2 / squares)
    return float(min(found))


def _alone(ids: np.ndarray) -> float:
    """How many independent rows stand for grouped ones that are all alike."""
    sizes = np.unique(ids, return_counts=True)[1]
    n = sizes.sum()
    return float(n if len(sizes) == 1 else n / (1 + ((sizes**2).sum() / n - 1) * CORRELATION))


def _alike(value: float, ids: np.ndarray, bounds: Interval) -> Estimate:
    effective = _alone(ids)
    hidden = 1 - TAIL ** (1 / effective)
    low, high = value - hidden * (value - bounds[0]), value + hidden * (bounds[1] - value)
    error = max(value - low, high - value) / quantile(math.inf)
    return Estimate(value, low, high, error, math.inf, len(ids), len(np.unique(ids)), effective)


def _binomial(hits: float, n: float) -> Interval:
    """Clopper and Pearson's interval, also of numbers that are not whole."""
    low = betaincinv(hits, n - hits + 1, TAIL) if hits > 0 else 0.0
    high = betaincinv(hits + 1, n - hits, 1 - TAIL) if hits < n else 1.0
    return float(low), float(high)


def _reach(sides: Sequence[float]) -> float:
    return math.sqrt(sum(side**2 for side in sides))


def _common(rows: Rows, rows0: Rows) -> tuple[Rows, Rows]:
    """Both, without a value where the other has none."""
    pairs = [(None, None) if a is None or b is None else (a, b) for a, b in zip(rows, rows0, strict=True)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _placed(members: Rows, others: Rows, groups: tuple[Groups, Groups]) -> list[tuple[np.ndarray, np.ndarray]]:
    """DeLong's components of both sides, with group ids: the share of the others that a member is above, of the members that an other is below."""
    (a, ids), (b, other_ids) = _measured(members, groups[0]), _measured(others, groups[1])
    ranks = rankdata(np.concatenate([a, b]))
    above = (ranks[: len(a)] - rankdata(a)) / max(len(b), 1)
    below = 1 - (ranks[len(a) :] - rankdata(b)) / max(len(a), 1)
    return [(above, ids), (below, other_ids)]


def _two_sides(first: Estimate | None, second: Estimate | None, bounds: Interval) -> Estimate:
    """The first's mean, with an error that has a part of either side."""
    if first is None or second is None or math.isnan(first.mean):
        return Estimate(math.nan, math.nan, math.nan, math.nan, math.nan, 0, 0)
    found = total((1, first), (1, second))
    low, high = first.mean - (found.mean - found.low), first.mean + (found.high - found.mean)
    return found._replace(mean=first.mean, low=max(low, bounds[0]), high=min(high, bounds[1]))
