"""How sure a number is: 95 % intervals of means, shares, AUCs and sums of them, over rows or over groups of rows that belong together."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit
from scipy.stats import rankdata

from peft_unlearn.metrics.spread import TAIL, binomial, independent, least_auc, quantile, spread, welch

Rows = Sequence[float | None] | np.ndarray
Groups = Sequence[int] | np.ndarray | None
FEWEST = 5  # groups with a hit, and with a miss, that tell how alike the rows of a group are


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


def mean_estimate(rows: Rows, groups: Groups = None, bounds: tuple[float, float] | None = None) -> Estimate | None:
    """Mean of the rows that have a value (None: no value) with a t interval, moved for skewness; None where no row has one.

    With groups the interval is cluster-robust, with G - 1 degrees of freedom where groups are of one size. Rows that all stand in one group
    are taken as independent, as nothing tells how groups differ; `groups` is then 1. One row has no finite interval.

    Args:
        rows: NaN or infinite ones are not left out: the mean and its interval are then NaN.
        groups: an id for each row, also for those without a value; None or () where each row stands on its own.
        bounds: the least and the largest value that a row can have. The interval keeps within, and has a width also where all rows are alike:
            of n rows that all are x, a share 1 - .025^(1/n) of all rows may still be at a bound (the exact binomial bound).
    """
    values, ids = _measured(rows, groups)
    n = len(values)
    if n == 0:
        return None
    count = int(ids.max()) + 1
    if not np.isfinite(values).all():
        return _unknown(n, count)
    mean = float(values.mean())
    if bounds is not None and (values == values[0]).all():
        effective = independent(ids)
        hidden = 1 - TAIL ** (1 / effective)
        return _exact(mean, mean - hidden * (mean - bounds[0]), mean + hidden * (bounds[1] - mean), n, count, effective)
    error, freedom, _ = found = spread(values, ids)
    below, above = found.reach()
    least, most = bounds or (-math.inf, math.inf)
    return Estimate(mean, max(mean - below, least), min(mean + above, most), error, freedom, n, count)


def share_estimate(hits: Sequence[bool | None] | Rows, groups: Groups = None) -> Estimate | None:
    """Share of hits with the exact interval of Clopper and Pearson, with groups on Korn and Graubard's effective number of rows.

    That number is what independent rows would need for the same standard error, at most n, and less by the quantiles' ratio where few groups
    tell the error. Where fewer than 5 groups have a hit, or a miss, they do not tell how alike the rows of a group are, and these are taken to
    correlate by .03 at least. None where no row has a value (None: no value).
    """
    values, ids = _measured(hits, groups)
    n = len(values)
    if n == 0:
        return None
    count = int(ids.max()) + 1
    share, alike = float(values.mean()), independent(ids)
    rarer = min(len(np.unique(ids[values == outcome])) for outcome in (0, 1))
    effective = float(n) if rarer >= FEWEST else alike
    if count < n and 0 < share < 1:
        error, freedom, _ = spread(values, ids)
        told = share * (1 - share) / max(error, 1e-9) ** 2 * (quantile(n - 1) / quantile(freedom)) ** 2
        effective = min(effective, told)
    return _exact(share, *binomial(share * effective, effective), n, count, effective)


def total(*parts: tuple[float, Estimate]) -> Estimate:
    """Sum of weight x estimate over independent estimates.

    The ends of each part's interval, in units of its own t quantile, stand for its standard error on that side, and freedom is Welch's and
    Satterthwaite's. Of t intervals this is Welch's; of exact ones, which are not symmetric, the recovered variances of Zou and Donner.
    """
    mean = sum(weight * part.mean for weight, part in parts)
    error = math.hypot(*(weight * part.error for weight, part in parts))
    n, groups = (sum(counts) for counts in zip(*((part.n, part.groups) for _, part in parts), strict=True))
    if math.isnan(mean):
        return _unknown(n, groups)
    if not math.isfinite(error):
        return Estimate(mean, -math.inf, math.inf, error, 0.0, n, groups)
    freedom = welch(*((weight * part.error, part.freedom) for weight, part in parts))

    def reach(sign: int) -> float:
        """Of the sum's interval below (-1) or above (1)."""
        ends = ((part.high if sign * weight > 0 else part.low) - part.mean for weight, part in parts)
        return quantile(freedom) * math.hypot(*(w * end / quantile(part.freedom) for end, (w, part) in zip(ends, parts, strict=True)))

    return Estimate(mean, mean - reach(-1), mean + reach(1), error, freedom, n, groups)


def paired_difference(before: Rows, after: Rows, groups: Groups = None, bounds: tuple[float, float] | None = None) -> dict[str, Any] | None:
    """Mean of after - before over the rows measured in both, its interval and n: {"mean", "interval", "n"}; None if no row is.

    What varies between rows cancels, and only what changed within them counts. The interval is None where there is one row or a row is not
    finite; of the latter the mean is NaN.
    """
    changes = [None if b is None or a is None else a - b for b, a in zip(before, after, strict=True)]
    found = mean_estimate(changes, groups, bounds)
    return found and {"mean": found.mean, "interval": found.interval, "n": found.n}


def auc_estimate(members: Rows, others: Rows, groups: tuple[Groups, Groups] = (None, None)) -> Estimate:
    """AUC of members over others, P(member > other) + P(equal) / 2, with DeLong's standard error, cluster-robust where sides have groups.

    The interval is the wider of two: DeLong's on the logit scale, and the AUCs from which this one is within 1.96 of Hanley and McNeil's
    standard errors, which has a width also where the sides are apart. None is no value, infinite values rank at the ends. All is NaN where
    a value is NaN or a side has none.
    """
    sides = _placed(members, others, groups)
    found = _two_sides(sides)
    if not math.isfinite(found.error):
        return found if math.isnan(found.mean) else found._replace(low=0.0, high=1.0)
    area, rows = found.mean, [_independent_rows(*side) for side in sides]
    low, high = least_auc(area, *rows), 1 - least_auc(1 - area, *rows)
    if not found.error:
        return _exact(area, low, high, found.n, found.groups, None)
    if 0 < area < 1:
        reach = quantile(found.freedom) * found.error / (area * (1 - area))
        low, high = min(low, float(expit(logit(area) - reach))), max(high, float(expit(logit(area) + reach)))
    return found._replace(low=low, high=high)


def auc_difference(pair: tuple[Rows, Rows], pair0: tuple[Rows, Rows], groups: tuple[Groups, Groups] = (None, None)) -> Estimate:
    """AUC of `pair` (members, others) - AUC of `pair0`, the same rows under another model, with DeLong's standard error of the difference.

    Where no row of a side changes its place, a share 1 - .025^(1/n) of all such rows may still do (see `mean_estimate`).
    """
    members, others = (_common(*rows) for rows in zip(pair, pair0, strict=True))
    sides = zip(_placed(members[0], others[0], groups), _placed(members[1], others[1], groups), strict=True)
    found = [(a - b, ids) for (a, ids), (b, _) in sides]
    return _two_sides(found, (-1.0, 1.0))


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
    wanted = float(estimate.n)
    for _ in range(20):  # the quantiles depend on the rows
        freedom = math.inf if math.isinf(estimate.freedom) else max(estimate.groups * wanted / estimate.n - 1, 1)
        wanted = estimate.n * ((quantile(freedom) + quantile(freedom, 0.8)) * estimate.error / room) ** 2
    return max(math.ceil(wanted), 2)


def _measured(rows: Rows, groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """The values that there are, and the groups they stand in, 0 to G - 1."""
    there = np.array([value is not None for value in rows], bool)
    values = np.asarray(rows, object)[there].astype(np.float64)
    if groups is None or not len(groups):
        return values, np.arange(len(values))
    return values, np.unique(np.asarray(groups)[there], return_inverse=True)[1]


def _unknown(n: int, groups: int) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, math.nan, math.nan, n, groups)


def _exact(mean: float, low: float, high: float, n: int, groups: int, effective: float | None) -> Estimate:
    """With the error that a normal interval as wide as its wider side would have."""
    return Estimate(mean, low, high, max(mean - low, high - mean) / quantile(math.inf), math.inf, n, groups, effective)


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


def _two_sides(sides: list[tuple[np.ndarray, np.ndarray]], bounds: tuple[float, float] | None = None) -> Estimate:
    """The mean of either side's components, with an error that has a part of both."""
    first, second = (mean_estimate(values, ids, bounds) for values, ids in sides)
    if first is None or second is None:
        return _unknown(sum(len(values) for values, _ in sides), 0)
    found = total((0.5, first), (0.5, second))  # their means are the same number
    low, high = found.mean - 2 * (found.mean - found.low), found.mean + 2 * (found.high - found.mean)
    least, most = bounds or (-math.inf, math.inf)
    return found._replace(low=max(low, least), high=min(high, most), error=2 * found.error)


def _independent_rows(values: np.ndarray, ids: np.ndarray) -> float:
    """How many independent rows would have the standard error of the mean of grouped ones, at most all."""
    error, n = spread(values, ids).error, len(values)
    if not error or ids.max() == n - 1:
        return independent(ids)
    return n * min(1.0, (spread(values, np.arange(n)).error / error) ** 2)
