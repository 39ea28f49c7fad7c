"""Rows to padded batches: which share one, and what is padded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from peft_unlearn.data.labels import IGNORE, kept_places, label_places


@dataclass(frozen=True)
class Unpadded:
    """Rows of a micro-batch, as `Pairs` gives them. No list, or accelerate would look for tensors among their tokens."""

    pairs: list[dict[str, dict[str, Any]]]


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token to fill batches with: the pad token, else the EOS, else 0. Which one is of no consequence, since masks go by length."""
    return next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)


def collate_rows(rows: list[dict[str, Any]], pad_token_id: int) -> dict[str, Any]:
    """Pad rows on the right: `input_ids`, `attention_mask` (0 on padding), `labels` (-100 on padding), each (B, T) int64.

    Rows may bring their `number` in a set (then `rows` has them all), `target_logps` (0 on padding; fp32), and each an `alternate`, a row of its own,
    which become a batch within the batch.

    `places` (N,) are the numbers, row by row, of the positions that predict a label, and `kept` of all up to each row's last one: finding them on a
    GPU would make the host wait for it.

    Padding is told by a row's length, never by its token: where pad and EOS are the same token, real EOS keep their mask and their label.
    """
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    labels = [torch.tensor(row["labels"]) for row in rows]
    batch: dict[str, Any] = {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE),
    }
    batch["places"], batch["kept"] = label_places(batch["labels"]), kept_places(batch["labels"])
    if "number" in rows[0]:
        batch["rows"] = [row["number"] for row in rows]
    if "target_logps" in rows[0]:
        batch["target_logps"] = pad_sequence([torch.tensor(row["target_logps"]) for row in rows], batch_first=True)
    if "instead" in rows[0]:
        batch["instead"] = pad_sequence([torch.tensor(row["instead"]) for row in rows], batch_first=True)
    if "alternate" in rows[0]:
        batch["alternate"] = collate_rows([row["alternate"] for row in rows], pad_token_id)
    return batch


def collate(pairs: list[dict[str, dict[str, Any]]], pad_token_id: int) -> dict[str, dict[str, Any]]:
    """A training batch {"forget": batch, "retain": batch} of what `Pairs` returns, with "holdout" where that is there."""
    return {stream: collate_rows([pair[stream] for pair in pairs], pad_token_id) for stream in pairs[0]}


def by_length(micro: Sequence[Sequence[dict[str, dict[str, Any]]]]) -> list[list[dict[str, dict[str, Any]]]]:
    """The rows of several micro-batches, in as many of the same sizes, so that in each stream rows of about one length stand together.

    A step's gradient is a sum over its rows, so it is of no consequence which of them share a micro-batch.
    """
    pairs = [pair for batch in micro for pair in batch]
    streams = {name: sorted((pair[name] for pair in pairs), key=lambda row: -len(row["input_ids"])) for name in pairs[0]}
    dealt = iter([dict(zip(streams, rows, strict=True)) for rows in zip(*streams.values(), strict=True)])
    return [[next(dealt) for _ in batch] for batch in micro]


def padding(batch: dict[str, dict[str, Any]]) -> tuple[int, int]:
    """Positions of a training batch on the host: those that are padding, and all."""
    masks = [rows["attention_mask"] for rows in batch.values()]
    computed = sum(mask.numel() for mask in masks)
    return computed - int(sum(mask.sum() for mask in masks)), computed
