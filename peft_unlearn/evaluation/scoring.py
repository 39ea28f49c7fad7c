"""Teacher-forced results of each row: the log-probability of every answer token, and whether greedy decoding would have chosen it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.evaluation.rows import Row, batches, end_length, special_ids
from peft_unlearn.logprobs import IGNORE

# Padded tokens of a batch: with a vocabulary of 128k the logits of 8192 tokens take 2.1 GB in bf16.
MAX_TOKENS = 8192


@dataclass(frozen=True)
class RowScore:
    """One row under teacher forcing: T answer tokens, the end token(s) included, in order.

    The first token of a row has nothing before it and so is never among them.
    """

    logps: np.ndarray  # (T,) float64, log p(y_t | x, y_<t), computed in fp32
    correct: np.ndarray  # (T,) bool, argmax p(. | x, y_<t) == y_t
    end: int  # number of end tokens among the T


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
    features per batch). Logits exist at label positions only, in the model's dtype, and in fp32 for one row at a time.
    """
    tokens, labels = [], []
    for row in rows:
        tokens.append(np.asarray(row["input_ids"]))
        labels.append(np.asarray(row["labels"]))
    positions = [np.flatnonzero(label[1:] != IGNORE) for label in labels]
    special = special_ids(tokenizer)
    scores: dict[int, RowScore] = {}

    def fits(batch: list[int]) -> bool:
        return len(batch) * max(len(tokens[i]) for i in batch) <= MAX_TOKENS

    order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
    with evaluating(model), tqdm(total=len(tokens), desc=progress, unit="row", delay=2, leave=False) as bar:
        for batch in batches(order, batch_size, fits):
            kept = np.unique(np.concatenate([positions[i] for i in batch]))
            logits = _logits(model, [tokens[i] for i in batch], kept)
            for i, at_labels in zip(batch, logits, strict=True):
                targets = labels[i][positions[i] + 1]
                at = at_labels[torch.from_numpy(np.searchsorted(kept, positions[i])).to(logits.device)].float()
                target = torch.from_numpy(targets).to(logits.device)
                logps = at.gather(-1, target.unsqueeze(-1)).squeeze(-1) - at.logsumexp(-1)
                correct = at.argmax(-1) == target
                end = end_length(tokenizer, special, targets.tolist())
                scores[i] = RowScore(logps.double().cpu().numpy(), correct.cpu().numpy(), end)
            bar.update(len(batch))
    return [scores[i] for i in range(len(tokens))]


def _logits(model: PreTrainedModel, tokens: list[np.ndarray], kept: np.ndarray) -> torch.Tensor:
    """Right-padded forward: B rows of at most T tokens -> logits (B, len(kept), V) in the model's dtype."""
    lengths = np.array([len(row) for row in tokens])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.concatenate(tokens)
    inputs = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "logits_to_keep": kept}
    return model(**{name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}, use_cache=False).logits
