"""Rows of values in which every pair of values of two axes stands at least once: a greedy covering array, the same on every call."""

from collections.abc import Mapping, Sequence, Set
from itertools import combinations

Value = tuple[str, str]  # an axis and one of its values
Pair = frozenset[Value]


def pairs(axes: Mapping[str, Sequence[str]]) -> set[Pair]:
    """Every pair of values of two different axes."""
    return {frozenset({(a, x), (b, y)}) for a, b in combinations(axes, 2) for x in axes[a] for y in axes[b]}


def pairs_of(row: Mapping[str, str]) -> set[Pair]:
    """The pairs that a row covers."""
    return {frozenset(two) for two in combinations(row.items(), 2)}


def covering(axes: Mapping[str, Sequence[str]], without: Set[Pair] = frozenset()) -> list[dict[str, str]]:
    """Rows that cover every pair but those of `without`, which stand in none of them.

    Each row begins with a pair that is still to come, and takes for each other axis the value that covers most of what is left.

    Raises:
        ValueError: a pair that no row can hold without a pair of `without`.
    """
    left = pairs(axes) - without
    found = []
    while left:
        row = dict(sorted(min(left, key=sorted)))
        for axis in sorted(axes.keys() - row.keys(), key=lambda axis: (-len(axes[axis]), axis)):
            new = {value: {frozenset({(axis, value), other}) for other in row.items()} for value in axes[axis]}
            possible = [value for value in axes[axis] if not new[value] & without]
            if not possible:
                raise ValueError(f"no {axis} goes with {row}")
            row[axis] = max(possible, key=lambda value: len(new[value] & left))
        found.append({axis: row[axis] for axis in axes})
        left -= pairs_of(row)
    return found
