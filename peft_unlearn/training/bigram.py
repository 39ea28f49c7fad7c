"""How well the other rows of a run tell a token from the one before it: what a model could guess that never saw this row."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from peft_unlearn.data.labels import IGNORE

Gram = tuple[int, ...]


def guesses(rows: Sequence[Mapping[str, Any]], others: Iterable[Mapping[str, Any]], vocabulary: int) -> list[np.ndarray]:
    """Log-probability in nats of each label token under a bigram model of all other rows, those of `rows` and `others`.

    Bigrams are interpolated with unigrams, and those with the uniform distribution, each by as much as new tokens follow its context
    (Witten and Bell 1991): p(w | c) = (n(c w) + d(c) p(w)) / (n(c) + d(c)), n the count and d the number of tokens that follow c.

    Args:
        rows, others: tokenized (`input_ids`, `labels`).
        vocabulary: number of tokens that there are.

    Returns:
        For each of `rows` its (T,) label tokens, but for the first token of a row, which is never one.
    """
    rows = list(rows)
    whole = _counted(gram for row in (*rows, *others) for gram in _grams(row["input_ids"]))
    return [_of_row(row, whole, vocabulary) for row in rows]


class Counts:
    """n of grams and of contexts, and d of contexts."""

    def __init__(self) -> None:
        self.grams: Counter[Gram] = Counter()
        self.contexts: Counter[Gram] = Counter()
        self.followers: Counter[Gram] = Counter()


def _counted(grams: Iterable[Gram]) -> Counts:
    counts = Counts()
    for gram in grams:
        counts.grams[gram] += 1
        counts.contexts[gram[:-1]] += 1
        counts.followers[gram[:-1]] += counts.grams[gram] == 1
    return counts


def _of_row(row: Mapping[str, Any], whole: Counts, vocabulary: int) -> np.ndarray:
    ids, labels = row["input_ids"], row["labels"]
    own = _counted(_grams(ids))
    alone: defaultdict[Gram, int] = defaultdict(int)  # tokens that follow a context in this row only
    for gram, count in own.grams.items():
        alone[gram[:-1]] += whole.grams[gram] == count
    found = []
    for place in range(1, len(ids)):
        if labels[place] == IGNORE:
            continue
        p = 1 / vocabulary
        for context in ((), (ids[place - 1],)):
            gram = (*context, ids[place])
            seen, new = whole.contexts[context] - own.contexts[context], whole.followers[context] - alone[context]
            if seen:
                p = (whole.grams[gram] - own.grams[gram] + new * p) / (seen + new)
        found.append(p)
    return np.log(found)


def _grams(ids: Sequence[int]) -> Iterator[Gram]:
    """Each token, and each with the one before it."""
    for place, token in enumerate(ids):
        yield (token,)
        if place:
            yield (ids[place - 1], token)
