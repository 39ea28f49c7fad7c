"""Batches of rows that several processes share: each takes its part of them, and all have what came of every row."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

R = TypeVar("R")

_shares: ContextVar[bool] = ContextVar("_shares", default=False)


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Have `by_batches` share its batches over the processes of a run. All of them must come here, with the same rows and the same model."""
    before = _shares.set(True)
    try:
        yield
    finally:
        _shares.reset(before)


def by_batches(batches: Iterable[list[int]], work: Callable[[list[int]], Iterable[R]], progress: str) -> list[R]:
    """What `work` gives for each row, in the order of the rows' numbers, under a bar that is called `progress`.

    Within `sharing`, each process takes every n-th batch. The batches stay those of one process, and so do the results, to the bit.

    Args:
        batches: numbers 0 to n - 1, each in one of them; the longest rows first, so that all processes get about as much to do.
        work: gives a result for each row of a batch.
    """
    processes, process = _place()
    own, found = list(batches)[process::processes], dict[int, R]()
    with tqdm(total=sum(map(len, own)), desc=progress, unit="row", delay=2, leave=False, disable=process > 0) as bar:
        for batch in own:
            found.update(zip(batch, work(batch), strict=True))
            bar.update(len(batch))
    if processes > 1:
        parts: list[Any] = [None] * processes
        torch.distributed.all_gather_object(parts, found)
        found = {row: result for part in parts for row, result in part.items()}
    return [found[row] for row in range(len(found))]


def _place() -> tuple[int, int]:
    """How many processes share, and which of them this is."""
    if not _shares.get() or not torch.distributed.is_initialized():
        return 1, 0
    return torch.distributed.get_world_size(), torch.distributed.get_rank()
