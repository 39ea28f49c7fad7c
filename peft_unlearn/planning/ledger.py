"""Counts the bytes of live tensors on the meta device, by what they are for."""

import contextlib
import weakref
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from peft_unlearn.planning.stand_ins import STAND_INS

BLOCK = 512  # torch's allocator for CUDA gives memory in multiples of this many bytes

Items = dict[str, int]  # bytes of each item


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every storage counts once, for the `item` of the moment that it was allocated at, until the last tensor on it is gone.

    What an operation holds within itself is not seen, but for what `stand_ins` allocates in its place.

    Args:
        padded: whether the rows of a batch differ in length.
        vocabulary: V. What has it as a dimension counts for the item "loss", whoever allocates it.
    """

    def __init__(self, *, padded: bool, vocabulary: int):
        super().__init__()  # type: ignore[no-untyped-call]
        self.padded, self.vocabulary = padded, vocabulary
        self.item = ""
        self.peaks: dict[str, Items] = {}  # phase -> what was held when it held most
        self._phase = ""
        self._held: Items = defaultdict(int)
        self._seen: set[int] = set()
        self._total = self._highest = 0

    @contextlib.contextmanager
    def phase(self, name: str, item: str) -> Iterator[None]:
        """What is allocated counts for `item`; the most that is held meanwhile is kept in `peaks`."""
        before = self._phase, self.item, self._highest
        self._phase, self.item, self._highest = name, item, 0
        self._note_peak()
        try:
            yield
        finally:
            self._phase, self.item, self._highest = before

    def add(self, tensor: Tensor, item: str) -> None:
        """Count a tensor's storage, unless it is counted already."""
        if tensor.device.type != "meta":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._seen.add(key)
        self._held[item] += size
        self._total += size
        weakref.finalize(storage, self._free, key, item, size).atexit = False
        self._note_peak()

    def _free(self, key: int, item: str, size: int) -> None:
        self._seen.remove(key)
        self._held[item] -= size
        self._total -= size

    def _note_peak(self) -> None:
        if self._total > self._highest:
            self._highest = self._total
            if self._total > sum(self.peaks.get(self._phase, {}).values()):
                self.peaks[self._phase] = dict(self._held)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        stand_in = STAND_INS.get(func)
        kwargs = kwargs or {}
        result = func(*args, **kwargs) if stand_in is None else stand_in(self, *args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.add(tensor, "loss" if self.vocabulary in tensor.shape else self.item)
        return result
