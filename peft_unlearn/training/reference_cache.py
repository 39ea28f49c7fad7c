"""The reference's last hidden states, once for every row to keep: unlike teacher and student, it does not change while a run trains. Nor does the
model as it was given, which rows are held to that are neither to keep nor to forget.

In a step it would see a row among others, which makes no difference beyond rounding: the adapter of 12 steps of MOLLM then differs by 8e-7 in fp32,
and in bf16, whose own rounding is .033 away from fp32, by .042 (measured on a tiny model).
"""

from collections.abc import Mapping, Sequence

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from tqdm.auto import tqdm

from peft_unlearn.model import adapters
from peft_unlearn.model.lm_head import Forward, Head
from peft_unlearn.model.scoring import at_labels, evaluating, labeled, longest_first

LIMIT = 2 << 30  # bytes of the host's memory for one set
OFTEN = 1.5  # times that a row must be drawn on average, or it is as cheap to run the reference on what is drawn


class Reference:
    """What the active adapters make of a set of rows, kept on the host.

    Args:
        model: as it is now.
        rows: tokenized.
        batch_size: rows of a forward, at most.
        name: of the set, for the bar.
    """

    def __init__(self, model: PeftModel, rows: Dataset, batch_size: int, name: str):
        found = labeled(rows)
        kept: dict[int, Tensor] = {}
        self.head: Head
        with evaluating(model), tqdm(total=len(found), desc=f"reference on the {name} set", unit="row", delay=2, leave=False) as bar:
            for batch in longest_first(found, batch_size):
                for i, read in zip(batch, at_labels(model, [found[i] for i in batch]), strict=True):
                    kept[i], self.head = read.states.cpu(), read.head
                bar.update(len(batch))
        self.states = [kept[i] for i in range(len(found))]

    def at(self, rows: Sequence[int], device: torch.device) -> Forward:
        """The states of these rows' labels, one row after the other: (N, H) on `device`."""
        return Forward(torch.cat([self.states[i] for i in rows]).to(device, non_blocking=True), self.head)


class References:
    """The kept states of several sets, each under the one view that it is held to, and made when it is first asked for."""

    def __init__(self, model: PeftModel, sets: Mapping[str, Dataset], batch_size: int):
        self.model, self.sets, self.batch_size = model, sets, batch_size
        self.kept: dict[str, Reference | None] = {}

    def at(self, view: str, name: str, rows: Sequence[int], drawn: int, device: torch.device) -> Forward | None:
        """The states of some rows of a set in a view, of which `drawn` are trained on in all; None where keeping them does not pay."""
        if name not in self.kept:
            self.kept[name] = self._reference(view, name) if self._pays(self.sets[name], drawn) else None
        reference = self.kept[name]
        return None if reference is None or reference.head.trained else reference.at(rows, device)

    def _pays(self, rows: Dataset, drawn: int) -> bool:
        width = 4 * self.model.config.get_text_config().hidden_size  # bytes of a label's state, at most
        return drawn > OFTEN * len(rows) and width * sum(len(row) for row in rows["labels"]) <= LIMIT

    def _reference(self, view: str, name: str) -> Reference:
        with adapters.view(self.model, view):
            return Reference(self.model, self.sets[name], self.batch_size, name)
