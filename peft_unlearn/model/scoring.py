"""Teacher-forced results of each row: the log-probability of every answer token, and whether greedy decoding would have chosen it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.rows import Row, batches, end_length, special_ids
from peft_unlearn.model.lm_head import Forward, forward
from peft_unlearn.model.sharing import by_batches

# Padded tokens of a batch: an MLP of 14336 takes 0.23 GB for each of its activations in bf16.
MAX_TOKENS = 8192


@dataclass(frozen=True)
class RowScore:
    """One row under teacher forcing: T answer tokens, the end token(s) included, in order.

    The first token of a row has nothing before it and so is never among them.
    """

    logps: np.ndarray  # (T,) float64, log p(y_t | x, y_<t), computed in fp32
    correct: np.ndarray  # (T,) bool, argmax p(. | x, y_<t) == y_t
    end: int  # number of end tokens among the T
    means: np.ndarray  # (T,) float64, mean of log p(v | x, y_<t) over v ~ p: minus the entropy
    deviations: np.ndarray  # (T,) float64, standard deviation of the same


class Labeled(NamedTuple):
    """A row as arrays: its tokens, the positions that predict a label, and the labels they predict, which are T each."""

    tokens: np.ndarray
    positions: np.ndarray
    targets: np.ndarray


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own training flag comes back (a teacher below a training student may be in eval mode)."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, flag in training.items():
            module.training = flag


def score(
    model: PreTrainedModel, rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, *, batch_size: int = 16, progress: str = "scoring"
) -> list[RowScore]:
    """Score `rows` in their order with whatever adapters are active.

    Results do not depend on batch size, padding or the order of rows beyond rounding (int8 bases excepted: bitsandbytes picks outlier
    features per batch). Logits exist at label positions only, and of a chunk of one row at a time.
    """
    found = labeled(rows)
    special = special_ids(tokenizer)

    def scored(batch: list[int]) -> Iterator[RowScore]:
        for i, read in zip(batch, at_labels(model, [found[i] for i in batch]), strict=True):
            targets = found[i].targets
            yield _row_score(read, targets, end_length(tokenizer, special, targets.tolist()))

    with evaluating(model):
        return by_batches(longest_first(found, batch_size), scored, progress)


def labeled(rows: Iterable[Row]) -> list[Labeled]:
    """Rows as arrays, and where their labels are predicted."""
    found = []
    for row in rows:
        tokens, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
        positions = np.flatnonzero(labels[1:] != IGNORE)
        found.append(Labeled(tokens, positions, labels[positions + 1]))
    return found


def longest_first(rows: Sequence[Labeled], batch_size: int) -> Iterator[list[int]]:
    """Batches of row numbers: rows of about one length together, at most `MAX_TOKENS` padded tokens a batch (a row alone always fits)."""

    def fits(batch: list[int]) -> bool:
        return len(batch) * max(len(rows[i].tokens) for i in batch) <= MAX_TOKENS

    return batches(sorted(range(len(rows)), key=lambda i: -len(rows[i].tokens)), batch_size, fits)


def at_labels(model: nn.Module, rows: Sequence[Labeled]) -> list[Forward]:
    """One forward over `rows`: each row's last hidden states at its T positions, (T, H), and the head."""
    found = forward(model, **padded(model, rows))
    return [
        Forward(states[torch.from_numpy(row.positions).to(states.device)], found.head)
        for states, row in zip(found.states, rows, strict=True)
    ]


def padded(model: PreTrainedModel, rows: Sequence[Labeled]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` of a batch, padded on the right, where padding changes nothing that stands before it."""
    lengths = np.array([len(row.tokens) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.concatenate([row.tokens for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    return {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}


def _row_score(read: Forward, targets: np.ndarray, end: int) -> RowScore:
    """Of a row's hidden states, (T, H), and the T tokens that came."""
    states, size = read.states, read.head.at_once
    parts = zip(torch.split(states, size), torch.split(torch.from_numpy(targets).long().to(states.device), size), strict=True)
    found = (_tokens(read.head.logits(part), true) for part, true in parts)
    logps, correct, means, deviations = map(torch.cat, zip(*found, strict=True))
    return RowScore(_float64(logps), correct.cpu().numpy(), end, _float64(means), _float64(deviations))


def _tokens(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log p of each target, whether it is the argmax, and mean and deviation of log p(v) under v ~ p: (T, V), (T,) -> four of (T,)."""
    logps = logits.log_softmax(-1)
    p = logps.exp()
    means = _expectation(p, logps)
    variances = _expectation(p, (logps - means.unsqueeze(-1)).square_())
    return logps.gather(-1, targets.unsqueeze(-1)).squeeze(-1), logits.argmax(-1) == targets, means, variances.sqrt()


def _expectation(p: Tensor, values: Tensor) -> Tensor:
    """sum_v p(v) values(v), where a p of 0 outweighs an infinite value: some models mask part of their vocabulary with -inf."""
    return (p * values).masked_fill_(p == 0, 0.0).sum(-1)


def _float64(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
