"""How often nominal 95 % intervals cover the truth, by simulation: means, differences, shares, AUCs, of independent rows and of authors' rows.

    python benchmarks/coverage.py                       # a table, about four minutes of one core
    python benchmarks/coverage.py --repetitions 20000

It ends with 1 where a cell is outside of what is promised: 93 to 97 %, or at least 93 % where intervals are made to cover more. Cells without a
promise are there to be read: of few rows of which one alone is far from zero, no method tells where their mean is.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, ndtr, ndtri

from peft_unlearn.metrics.statistics import Estimate, auc_difference, auc_estimate, mean_estimate, share_estimate, total

LEAST, MOST = 0.93, 0.97
ROWS = 20  # of an author
Drawn = tuple[Estimate | None, float]
Random = np.random.Generator


class Cell(NamedTuple):
    """One line of the table: `draw` makes a sample and gives its estimate and the truth; the promise is a least and a most share."""

    what: str
    rows: str
    promise: tuple[float, float]
    draw: Callable[[Random], Drawn]


WITHIN, AT_LEAST, NONE = (LEAST, MOST), (LEAST, 1.0), (0.0, 1.0)
# What a standard normal value becomes, the mean of that, and whether a promise is made.
KINDS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, bool]] = {
    "normal": (lambda z: z, 0.0, True),
    "uniform": (ndtr, 0.5, True),
    "Beta(2, 5)": (lambda z: betaincinv(2, 5, ndtr(z)), 2 / 7, True),
    "Beta(.3, 3)": (lambda z: betaincinv(0.3, 3, ndtr(z)), 0.3 / 3.3, False),
    "4 of 5 are 0": (lambda z: np.maximum(ndtr(z) - 0.8, 0) * 5, 0.1, False),
    "19 of 20 are 0": (lambda z: np.maximum(ndtr(z) - 0.95, 0) * 20, 0.025, False),
}


def correlated(rng: Random, ids: np.ndarray, icc: float) -> np.ndarray:
    """Standard normal values of which those of one group correlate by `icc`."""
    return np.sqrt(icc) * rng.normal(size=ids.max() + 1)[ids] + np.sqrt(1 - icc) * rng.normal(size=len(ids))


def authors(count: int, unequal: bool = False) -> np.ndarray:
    """Group ids of `count` authors of 20 rows, or of 2 to 38."""
    return np.repeat(np.arange(count), np.linspace(2, 38, count).round().astype(int) if unequal else ROWS)


def means() -> Iterator[Cell]:
    def mean(kind: str, ids: np.ndarray, icc: float) -> Callable[[Random], Drawn]:
        shape, truth, _ = KINDS[kind]
        bounds = None if kind == "normal" else (0.0, 1.0)
        return lambda rng: (mean_estimate(shape(correlated(rng, ids, icc)), ids, bounds), truth)

    for kind, (_, _, promised) in KINDS.items():
        for n in (5, 20, 100):
            yield Cell("mean", f"{n} rows, {kind}", WITHIN if promised else NONE, mean(kind, np.arange(n), 0))
    for kind in ("normal", "Beta(2, 5)"):
        for count in (5, 20, 100):
            for icc in (0.0, 0.1, 0.3):
                yield Cell("mean", f"{count} authors, correlation {icc}, {kind}", WITHIN, mean(kind, authors(count), icc))
    for count in (5, 20):
        for icc in (0.0, 0.3):
            yield Cell("mean", f"{count} authors of 2 to 38 rows, {icc}, normal", AT_LEAST, mean("normal", authors(count, True), icc))


def differences() -> Iterator[Cell]:
    def paired(ids: np.ndarray, icc: float) -> Callable[[Random], Drawn]:
        def draw(rng: Random) -> Drawn:
            z = correlated(rng, ids, icc)
            before, after = (ndtr(0.8 * z + 0.6 * correlated(rng, ids, icc) - shift) for shift in (0, 0.5))
            return mean_estimate(after - before, ids, (-1, 1)), float(ndtr(-0.5 / np.sqrt(2)) - 0.5)

        return draw

    def two(kind: str, ids: np.ndarray, others: np.ndarray, icc: float) -> Callable[[Random], Drawn]:
        shape, truth, _ = KINDS[kind]

        def draw(rng: Random) -> Drawn:
            one = mean_estimate(shape(correlated(rng, ids, icc)), ids)
            return total((1, one), (-1, mean_estimate(2 * shape(correlated(rng, others, icc)), others))), -truth

        return draw

    for n in (5, 20, 100):
        yield Cell("paired difference", f"{n} rows", WITHIN, paired(np.arange(n), 0))
    for count in (5, 20, 100):
        for icc in (0.1, 0.3):
            yield Cell("paired difference", f"{count} authors, correlation {icc}", WITHIN, paired(authors(count), icc))
    for kind in ("normal", "Beta(2, 5)"):
        for n, m in ((5, 5), (5, 20), (20, 100), (100, 100)):
            yield Cell("difference of two samples", f"{n} and {m} rows, {kind}", WITHIN, two(kind, np.arange(n), np.arange(m), 0))
    yield Cell("difference of two samples", "5 and 20 authors, correlation 0.3", WITHIN, two("normal", authors(5), authors(20), 0.3))


def shares() -> Iterator[Cell]:
    """Over all shares that are drawn: uniform, or of few rows in a hundred. Groups are beta-binomial."""

    def share(ids: np.ndarray, icc: float, most: float) -> Callable[[Random], Drawn]:
        def draw(rng: Random) -> Drawn:
            p = rng.uniform(0.005, most)
            own = rng.beta(p * (1 / icc - 1), (1 - p) * (1 / icc - 1), ids.max() + 1) if icc else np.full(ids.max() + 1, p)
            return share_estimate(rng.random(len(ids)) < own[ids], ids), p

        return draw

    for most, name in ((0.995, "of .5 to 99.5 %"), (0.1, "of .5 to 10 %")):
        for n in (5, 20, 100):
            yield Cell("share", f"{n} rows, {name}", AT_LEAST, share(np.arange(n), 0, most))
        for count in (5, 20, 100):
            for icc in (0.0, 0.1, 0.3):
                promise = NONE if icc > 0.1 and most < 0.5 else AT_LEAST  # of few hits nothing tells how alike the rows of an author are
                yield Cell("share", f"{count} authors, correlation {icc}, {name}", promise, share(authors(count), icc, most))


def aucs() -> Iterator[Cell]:
    def normal_auc(area: float, ids: np.ndarray, others: np.ndarray, icc: float, width: float) -> Callable[[Random], Drawn]:
        shift = ndtri(area) * np.sqrt(1 + width**2)
        return lambda rng: (
            auc_estimate(shift + width * correlated(rng, ids, icc), correlated(rng, others, icc), (ids, others)),
            area,
        )

    def changed(ids: np.ndarray, others: np.ndarray, icc: float) -> Callable[[Random], Drawn]:
        def draw(rng: Random) -> Drawn:
            sides = [0.8 * correlated(rng, side, icc) for side in (ids, others)]
            pairs = [
                [sides[i] + 0.6 * correlated(rng, side, icc) + shift * (i == 0) for i, side in enumerate((ids, others))]
                for shift in (1, 0.2)
            ]
            return auc_difference(*pairs, (ids, others)), float(ndtr(1 / np.sqrt(2)) - ndtr(0.2 / np.sqrt(2)))

        return draw

    for n, m in ((5, 5), (20, 20), (100, 100)):
        for area in (0.5, 0.7, 0.9, 0.97):
            promise = WITHIN if area <= 0.7 and n == 100 else AT_LEAST
            yield Cell("AUC", f"{n} and {m} rows, {area}", promise, normal_auc(area, np.arange(n), np.arange(m), 0, 1))
    for area in (0.5, 0.9):
        yield Cell(
            "AUC", f"12 and 100 rows, members 3 times as wide, {area}", AT_LEAST, normal_auc(area, np.arange(12), np.arange(100), 0, 3)
        )
    for count in (5, 20):
        for icc in (0.1, 0.3):
            sides = authors(count), authors(count)
            yield Cell("AUC", f"{count} and {count} authors, correlation {icc}, .7", AT_LEAST, normal_auc(0.7, *sides, icc, 1))
    for n, m in ((5, 5), (20, 20), (100, 100)):
        yield Cell("difference of AUCs", f"{n} and {m} rows", WITHIN if n > 5 else AT_LEAST, changed(np.arange(n), np.arange(m), 0))
    for icc in (0.1, 0.3):
        yield Cell("difference of AUCs", f"20 and 20 authors, correlation {icc}", AT_LEAST, changed(authors(20), authors(20), icc))


def run(cell: Cell, repetitions: int, seed: int = 1) -> tuple[float, float, float, float]:
    """Shares of samples whose interval covers the truth, lies above it and below it, and the intervals' median width."""
    rng = np.random.default_rng(seed)
    found = [cell.draw(rng) for _ in range(repetitions)]
    low, high, truth = np.array([(estimate.low, estimate.high, truth) for estimate, truth in found]).T
    return (
        float(np.mean((low <= truth) & (truth <= high))),
        float(np.mean(low > truth)),
        float(np.mean(high < truth)),
        float(np.median(high - low)),
    )


def cells() -> Iterator[Cell]:
    yield from means()
    yield from differences()
    yield from shares()
    yield from aucs()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=4000)
    parser.add_argument("--only", default="", help="cells whose name holds this")
    options = parser.parse_args()
    broken = 0
    print(f"{'':26}{'':52}{'covers':>8}{'above':>8}{'below':>8}{'width':>8}   promised")
    for cell in cells():
        if options.only not in f"{cell.what}, {cell.rows}":
            continue
        covers, above, below, width = run(cell, options.repetitions)
        least, most = cell.promise
        kept = least <= covers <= most
        broken += not kept
        said = {WITHIN: "93 to 97 %", AT_LEAST: "at least 93 %", NONE: ""}[cell.promise] + ("" if kept else "  BROKEN")
        print(f"{cell.what:26}{cell.rows:52}{covers:8.1%}{above:8.1%}{below:8.1%}{width:8.3f}   {said}", flush=True)
    sys.exit(int(broken > 0))


if __name__ == "__main__":
    main()
