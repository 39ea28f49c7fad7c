"""The longest run of words that two texts have in common."""

from collections.abc import Sequence
from difflib import SequenceMatcher


def longest_run(one: Sequence[str], other: Sequence[str]) -> int:
    """Number of words in the longest run that stands in both, word after word; 0 where they share none."""
    return SequenceMatcher(None, one, other, autojunk=False).find_longest_match().size
