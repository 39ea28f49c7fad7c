"""Whether a model that has forgotten is nearer to one that never saw the forget set or to the one before, by what the three show on the same rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from peft_unlearn.metrics.spread import spread
from peft_unlearn.metrics.statistics import Groups

RATE = 0.05
FEWEST = 6  # groups: fewer can have all their signs alike by chance in more than 5 of 100 cases
Sample = Sequence[Sequence[float | None]] | np.ndarray


def three_samples(before: Sample, after: Sample, never_seen: Sample, groups: Groups = None) -> dict[str, Any]:
    """Is `after` nearer to never-seen or to before? A test on n rows of k numbers under three models: (n, k) each, in one order.

    Each of the k numbers is divided by its standard deviation over all three samples. A row counts with its squared distances,

        d = |after - before|^2 - |after - never seen|^2 = 2 (after - middle) . (never seen - before),

    and a t test over rows, moved for skewness (with `groups`: cluster-robust), says whether their mean is 0, as it is where after stands in
    the middle. A p-value is never below 2 / 2^G, the chance that G groups all have one sign. Rows with None are left out.

    Returns:
        {"nearer_to": "never_seen", "before" or None where p > rate, "p": two-sided, "share": of the way from before (0) to never-seen (1), past
        1 where after lies beyond, "rate": of calls where after is in the middle and a side is named all the same, "n", "groups", "text"}.
        Without a p-value, and with the reason as text, where a number is not finite, fewer than 6 rows or groups are there, or nothing lies between.

    The question is that of the relative three-sample test in arXiv 2601.19755; the statistic is ours.
    """
    samples, ids = _complete((before, after, never_seen), groups)
    n, count = samples.shape[1], len(np.unique(ids))
    found: dict[str, Any] = {"nearer_to": None, "p": None, "share": None, "rate": RATE, "n": n, "groups": count}
    lost = int((~np.isfinite(samples)).any((0, 2)).sum())
    if lost:
        return {**found, "text": f"Nothing can be said: the numbers of {lost} of {n} rows are not finite."}
    if count < FEWEST:
        unit = "rows" if count == n else "groups of rows"
        return {**found, "text": f"Nothing can be said: there are {count} {unit}, and fewer than {FEWEST} cannot tell."}
    scale = samples.std((0, 1))
    start, end, goal = samples / np.where(scale > 0, scale, 1.0)
    way = (goal - start).ravel() @ (goal - start).ravel()
    if way == 0:
        return {**found, "text": "Nothing can be said: before and never-seen show the same numbers in every row."}
    share = float((end - start).ravel() @ (goal - start).ravel() / way)
    nearness = ((end - start) ** 2 - (end - goal) ** 2).sum(-1)
    p = max(spread(nearness, ids).p(float(nearness.mean())), 2.0 ** (1 - count))
    nearer = None if p > RATE else "never_seen" if nearness.mean() > 0 else "before"
    return {**found, "nearer_to": nearer, "p": p, "share": share, "text": _sentence(nearer, share, p, n)}


def _complete(samples: tuple[Sample, Sample, Sample], groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """The rows that have all their numbers in all samples, (3, n, k), and their groups."""
    rows = list(zip(*samples, strict=True))
    ids = np.asarray(groups) if groups is not None and len(groups) else np.arange(len(rows))
    kept = [i for i, row in enumerate(rows) if not any(value is None for numbers in row for value in numbers)]
    return np.array([rows[i] for i in kept], np.float64).reshape(len(kept), 3, -1 if kept else 0).swapaxes(0, 1), np.unique(
        ids[kept], return_inverse=True
    )[1]


def _sentence(nearer: str | None, share: float, p: float, n: int) -> str:
    where = f"{share:.0%} of the way from before to never-seen on {n} rows"
    if nearer is None:
        return f"The model after unlearning is {where}, and whether it is nearer to one or the other cannot be told (p = {p:.2g})."
    name = "never-seen" if nearer == "never_seen" else "before"
    return f"The model after unlearning is nearer to {name} (p = {p:.2g}): {where}."
