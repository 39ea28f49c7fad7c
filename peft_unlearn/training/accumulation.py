"""What the micro-batches of a step add up to. Where a GPU's memory is out, a step is taken again in micro-batches of half as many rows."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor, nn

from peft_unlearn.data.labels import kept_places, label_places
from peft_unlearn.model import adapters
from peft_unlearn.model.logprobs import mean_nll, row_means, score
from peft_unlearn.model.scoring import evaluating
from peft_unlearn.training.objectives import distance
from peft_unlearn.training.passes import Passes
from peft_unlearn.util.errors import UserError

logger = logging.getLogger(__name__)

Batch = dict[str, Any]
Streams = dict[str, Batch]
Counts = Mapping[str, dict[str, Tensor]]
PLACES = {"places": label_places, "kept": kept_places}  # of a batch, which its rows tell


class Accumulation:
    """Gradients, in the rows of `passes.gradients`, and sums over the micro-batches of a step.

    Args:
        passes: what is done with each of them.
        device: where they are.
        scale: unit of the distance from the targets; None where there are none.
        nll: whether the retain loss that AutoLR compares is summed as well.
        streams: by name; all are summed up, also where this process has no rows in a step.

    Attributes:
        rows: of a micro-batch, at most; fewer than it was told to have once the memory was out.
        sums: of losses, probabilities and the like, by their names in the log; in fp64, so that their order does not matter.
        retain_batches: with their counts; `last` are those of the step before.
    """

    def __init__(self, passes: Passes, device: torch.device, scale: float | None, nll: bool, streams: Iterable[str]):
        self.passes, self.device, self.scale, self.nll, self.streams = passes, device, scale, nll, list(streams)
        self.rows: int = passes.args.per_device_train_batch_size
        self.retain_batches: list[tuple[Batch, Mapping[str, Tensor]]] = []
        self.last: list[tuple[Batch, Mapping[str, Tensor]]] = []
        self._given: list[Streams] = []
        self.sums: dict[str, Tensor] = {}
        self.taken = False  # whether there was a step
        self.clear()

    def clear(self) -> None:
        """Begin a step."""
        self.passes.gradients.matrix.zero_()
        self.sums = {name: self._zero() for name in self._names()}
        self.retain_batches.clear()
        self._given.clear()

    def _zero(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64, device=self.device)

    def _names(self) -> Iterator[str]:
        """What is summed up, in one order in all processes."""
        for stream in self.streams:
            yield from (f"loss/{o.name}" for o in self.passes.objectives if o.stream == stream)
            yield from ["distance"] if stream == "forget" and self.scale is not None else []
            yield from ["nll"] if stream == "retain" and self.nll else []
            yield from (f"{name}/{stream}" for name in ("p", "logp"))

    def finish(self) -> None:
        """The step is taken."""
        self.taken = True
        self.last = self.retain_batches.copy()
        self.clear()

    def add(self, forward: nn.Module, step: int, inputs: Streams, counts: Counts) -> dict[str, Tensor]:
        """Take the passes of one more micro-batch of a step, and give its losses.

        Where the memory is out, the whole step so far is taken again in halves: what a half-done pass has left in the gradients is told from the
        rest by nothing. Losses are divided by the counts of the whole accumulated batch, so that its sums do not depend on how it is cut.

        Raises:
            UserError: there is no memory for a single row, or micro-batches may not be cut.
        """
        given = [*self._given, inputs]
        taken = [inputs]
        while (losses := self._all(forward, step, taken, counts)) is None:
            self._halve(step)
            self.clear()
            if self.passes.sam is not None and step % 2 == 0:
                self.passes.sam.gradient.zero_()  # an even step gathers it
            adapters.release()
            taken = given
        self._given = given
        return losses

    def _all(self, forward: nn.Module, step: int, taken: Sequence[Streams], counts: Counts) -> dict[str, Tensor] | None:
        """The losses of the last of some micro-batches; None where the memory is out."""
        losses: dict[str, Tensor] = {}
        try:
            for inputs in taken:
                losses = defaultdict(lambda: torch.zeros((), device=self.device))
                for piece in pieces(inputs, self.rows):
                    for name, loss in self._one(forward, step, piece, counts).items():
                        losses[name] += loss
        except torch.OutOfMemoryError:
            return None  # and not from here on: what a traceback holds is in the memory that is wanted
        return losses

    def _halve(self, step: int) -> None:
        args, before = self.passes.args, self.rows
        if before == 1 or args.definitions == "openunlearning":
            why = "for one row" if before == 1 else "and OpenUnlearning's losses are means over a micro-batch, so that none can be cut"
            message = (
                f"per_device_train_batch_size: the GPU's memory is too small {why}; write gradient_checkpointing: true, a smaller max_length"
                f"{'' if before == 1 else ' or fewer rows'}, or load_in_4bit: true."
            )
            if args.local_process_index:  # the first process does not know of it, and only that one says what ends a run
                logger.error(message)
            raise UserError(message)
        self.rows = -(-before // 2)
        times = -(-args.per_device_train_batch_size // self.rows)
        logger.warning(
            "per_device_train_batch_size: the memory is too small for %d rows at step %d; from here on micro-batches have %d, and %d make a step, "
            "which is the same as before.",
            before,
            step + 1,
            self.rows,
            times * args.gradient_accumulation_steps,
        )

    def _one(self, forward: nn.Module, step: int, inputs: Streams, counts: Counts) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for stream, batch in inputs.items():
            counted = counts[stream]
            scores, losses = self.passes.run(forward, step, stream, batch, counted)
            for name, loss in losses.items():
                self.sums[f"loss/{name}"] += loss
            found |= losses
            logps = scores.logps.detach()
            if self.scale is not None and scores.target_logps is not None:
                self.sums["distance"] += distance(scores, self.scale) / counted["token"]
            if stream == "retain" and self.nll:
                self.sums["nll"] -= logps.double().sum() / counted["token"]
            rows = row_means(logps, scores.mask)
            self.sums[f"p/{stream}"] += rows.exp().sum() / counted["sequence"]
            self.sums[f"logp/{stream}"] += rows.sum() / counted["sequence"]
        self.retain_batches.append((inputs["retain"], counts["retain"]))
        return found

    def nll_now(self) -> Tensor:
        """The retain loss that AutoLR compares, of the last step's rows in this process, as the adapter is now."""
        return sum((mean_nll(self.passes.model, [batch])[0] / counts["token"] for batch, counts in self.last), self._zero())

    @torch.no_grad()
    def retain_loss(self) -> float | None:
        """Mean over the last step's retain rows of -log p of a token, in nats, as the adapter is now; None where there was no step."""
        model = self.passes.model
        total = self._zero()
        with evaluating(model):
            for batch, counts in self.last:
                scores = score(model, batch)
                total -= row_means(scores.logps, scores.mask).sum() / counts["sequence"]
        total = reduce(total, "sum")
        return total.item() if self.taken else None

    def state_dict(self) -> dict[str, Tensor]:
        """How many rows there was memory for."""
        return {"rows": torch.tensor(self.rows)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what a `state_dict` says."""
        self.rows = int(state["rows"])


def pieces(inputs: Streams, rows: int) -> Iterator[Streams]:
    """A micro-batch in pieces of at most so many rows; one that has no more is left as it is."""
    size = max((len(batch["labels"]) for batch in inputs.values()), default=0)
    if size == 0:
        return
    if size <= rows:
        yield inputs
        return
    for start in range(0, size, rows):
        yield {stream: _some(batch, slice(start, start + rows)) for stream, batch in inputs.items()}


def _some(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch."""
    found = {name: _some(value, rows) if name == "alternate" else value[rows] for name, value in batch.items() if name not in PLACES}
    return {**found, **{name: places(batch["labels"][rows]) for name, places in PLACES.items()}}
