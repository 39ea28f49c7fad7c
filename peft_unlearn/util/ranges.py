"""The values that a number may have, in the words that a user reads."""

import re
from dataclasses import dataclass
from typing import Any

from peft_unlearn.util.errors import UserError

_NUMBER = r"(-?[\d.]+(?:e-?\d+)?)"
_WORDS = re.compile(rf"(?:(at least|above) {_NUMBER}|from {_NUMBER} to (below )?{_NUMBER})")


@dataclass(frozen=True)
class Range:
    """An interval: "at least 0", "above 0", "from 0 to 1" or "from 0 to below 1".

    >>> 0 in Range("above 0"), 1 in Range("from 0 to 1"), 1 in Range("from 0 to below 1"), float("nan") in Range("at least 0")
    (False, True, False, False)

    Raises:
        ValueError: other words.
    """

    words: str

    def __post_init__(self) -> None:
        if _WORDS.fullmatch(self.words) is None:
            raise ValueError(f"{self.words!r} is no range, write one such as 'at least 0', 'above 0', 'from 0 to 1' or 'from 0 to below 1'")

    def __contains__(self, value: float) -> bool:
        match = _WORDS.fullmatch(self.words)
        assert match is not None
        open_end, limit, low, below, high = match.groups()
        if open_end:
            return value > float(limit) if open_end == "above" else value >= float(limit)
        return float(low) <= value and (value < float(high) if below else value <= float(high))


def check_number(name: str, value: Any, within: Range | None = None, *, whole: bool = False) -> None:
    """See that a value is a number, whole where it must be, and in its range.

    Raises:
        UserError: it is not; the message begins with `name`.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"{name}: {value!r} is not a number.")
    if within is not None and value not in within:
        raise UserError(f"{name}: {value!r} is out of range, write a value {within.words.replace('at least', 'of at least')}.")
    if whole and value % 1:
        raise UserError(f"{name}: {value!r} is not a whole number.")
