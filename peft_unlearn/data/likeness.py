"""Whether two sets of texts are of one kind: the n-grams of characters that they have in common."""

import math
from collections import Counter
from collections.abc import Sequence

LENGTH = 3  # characters: these tell languages and kinds of text apart without words
FEWEST = 20  # texts of a set below which nothing can be told
EVERYWHERE = 0.9  # share of the texts of both sets in which what a template writes stands
UNLIKE = 0.5  # the same kind has .76 and more, and 61 of 72 pairs of two kinds less than this (benchmarks/likeness.py)


def likeness(texts: Sequence[str], others: Sequence[str]) -> float | None:
    """How much `others` are like `texts`, where 1 is as much as one half of the texts is like the other half; None of too few.

    Two sets are as alike as the distributions of their n-grams are, by the Bhattacharyya coefficient. Halves are compared with as many others, for
    small sets are less alike.

    Source: n-grams of characters after Cavnar and Trenkle, N-Gram-Based Text Categorization (1994); the use is ours.
    """
    half = min(len(texts), len(others)) // 2
    if 2 * half < FEWEST:
        return None
    grams = [[Counter(text[i : i + LENGTH] for i in range(len(text) - LENGTH + 1)) for text in side] for side in (texts, others)]
    common = set.intersection(*(_everywhere(side) for side in grams))
    first, second = (_distribution(part, common) for part in (grams[0][:half], grams[0][-half:]))
    own = _overlap(first, second)
    other = [_overlap(first, _distribution(grams[1][-half:], common)), _overlap(second, _distribution(grams[1][:half], common))]
    return sum(other) / 2 / own if own else None


def _everywhere(texts: Sequence[Counter[str]]) -> set[str]:
    found = Counter(gram for text in texts for gram in text)
    return {gram for gram, count in found.items() if count >= EVERYWHERE * len(texts)}


def _distribution(texts: Sequence[Counter[str]], without: set[str]) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    kept = {gram: count for gram, count in counts.items() if gram not in without}
    total = sum(kept.values())
    return {gram: count / total for gram, count in kept.items()}


def _overlap(one: dict[str, float], other: dict[str, float]) -> float:
    return sum(math.sqrt(share * other[gram]) for gram, share in one.items() if gram in other)
