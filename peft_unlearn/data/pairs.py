"""Which retain row goes with which forget row, as a pure function of (seed, n)."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from peft_unlearn.data.prompt_dropout import PromptDropout


@lru_cache(maxsize=16)
def _permutation(seed: int, stream: int, turn: int, size: int) -> np.ndarray:
    """Order of `size` rows in their `turn`-th pass. The stream keeps forget and retain orders apart when both sets have the same size."""
    return np.random.default_rng([seed, stream, turn]).permutation(size)


STREAMS = ("forget", "retain", "holdout", "answers")  # their places decide their orders


class Pairs(TorchDataset[dict[str, Any]]):
    """Training example n: a row of each stream, a forget and a retain row at least, for n = 0, 1, ... on through the epochs.

    Each set runs through passes of its own, every pass in another order, so the larger set is seen as evenly as the smaller one. Because
    `pairs[n]` depends on (seed, n) alone, a resumed run draws what an uncut one would have drawn.

    Every second time that a row of the forget set or another answer comes, its prompt is changed by what `dropout` makes for the set. In each pass
    these are half of the rows: after a pass in which all had been changed, a model would stand elsewhere than after one in which none had.

    `sets` are by their stream, one of `STREAMS`. A row has its `number` in its set besides. `len(pairs)` is the number of forget rows, an epoch; n
    may go past it.
    """

    def __init__(self, sets: Mapping[str, Dataset], seed: int, dropout: Callable[[Dataset], PromptDropout] | None = None):
        self.sets, self.seed = sets, seed
        self.dropout = {name: dropout(sets[name]) for name in ("forget", "answers") if dropout is not None and name in sets}

    def __len__(self) -> int:
        return len(self.sets["forget"])

    def __getitem__(self, n: int) -> dict[str, dict[str, Any]]:
        return {stream: self._row(rows, stream, n) for stream, rows in self.sets.items()}

    def _row(self, rows: Dataset, stream: str, n: int) -> dict[str, Any]:
        turn, place = divmod(n, len(rows))
        place_of = STREAMS.index(stream)
        number = int(_permutation(self.seed, place_of, turn, len(rows))[place])
        row = {**rows[number], "number": number}
        if stream in self.dropout and (turn + number) % 2:
            return self.dropout[stream](row, np.random.default_rng([self.seed, place_of, turn, number]))
        return row


class PairSampler(Sampler[int]):
    """The example numbers of an epoch, in order: epoch * F ... (epoch + 1) * F - 1. The orders of the rows are `Pairs`' business."""

    def __init__(self, pairs: Pairs):
        self.pairs, self.epoch = pairs, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[int]:
        size = len(self.pairs)
        return iter(range(self.epoch * size, (self.epoch + 1) * size))
