"""What a never-seen model would say in place of each label token: the rest of its distribution, kept as its likeliest tokens.

A target for the true token alone does not say where the rest of the probability goes. KL(q || p) of whole distributions is that of two outcomes,
the true token or another, which targets see to, and (1 - q(true)) KL(q' || p'), where q' and p' are the distributions over all other tokens.

Source: that sum is decoupled knowledge distillation (arXiv 2203.08679, equation 6).
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor
from transformers import PreTrainedModel

from peft_unlearn.data.labels import IGNORE
from peft_unlearn.model.lm_head import Forward, Head
from peft_unlearn.model.scoring import at_labels, evaluating, labeled, longest_first
from peft_unlearn.model.sharing import by_batches

LIKELIEST = 64  # other tokens that are kept; all that are left count as one
LEAST = 1e-6  # probability that these have at least
LOWEST = -1e4  # log p of a token at least, or there is no gradient where a model has all of them at -inf


def of_model(model: PreTrainedModel, rows: Dataset, batch_size: int) -> list[np.ndarray]:
    """What `model` would say instead of each row's T label tokens: (T, 2 K) fp32, the numbers of K other tokens and their log q'."""
    found = labeled(rows)

    def said(batch: list[int]) -> Iterator[np.ndarray]:
        for i, read in zip(batch, at_labels(model, [found[i] for i in batch]), strict=True):
            targets = torch.from_numpy(found[i].targets).to(read.states.device)
            parts = zip(torch.split(read.states, read.head.at_once), torch.split(targets, read.head.at_once), strict=True)
            yield torch.cat([likeliest(read.head.logits(states), true) for states, true in parts]).cpu().numpy()

    with evaluating(model):
        return by_batches(longest_first(found, batch_size), said, "distributions")


def likeliest(logits: Tensor, targets: Tensor) -> Tensor:
    """The K likeliest other tokens, and their log-probabilities among all others: (N, V), (N,) -> (N, 2 K)."""
    others = logits.scatter(-1, targets.unsqueeze(-1), -math.inf).log_softmax(-1)
    logps, tokens = others.topk(min(LIKELIEST, logits.shape[-1] - 2), dim=-1)
    return torch.cat([tokens.to(logps.dtype), logps], dim=-1)


def beside(rows: Dataset, found: list[np.ndarray]) -> Dataset:
    """Tokenized rows with a column `instead`: for each label token what `of_model` found, zeros elsewhere."""
    lengths = [len(labels) for labels in rows["labels"]]
    whole = np.zeros((sum(lengths), found[0].shape[-1]), np.float32)
    labels = np.concatenate([[IGNORE, *labels[1:]] for labels in rows["labels"]])  # the first token of a row is never predicted
    whole[labels != IGNORE] = np.concatenate(found)
    column = Dataset.from_dict({"instead": np.split(whole, np.cumsum(lengths)[:-1])})
    return concatenate_datasets([rows, column], axis=1)


def anchor(instead: Tensor, places: Tensor) -> Forward:
    """A batch's column, (B, S, 2 K), at the positions that predict its N labels, as what `divergence` compares with."""
    return Forward(instead.flatten(0, 1)[places + 1], Head(lambda found: found, instead.shape[-1]))


def divergence(logits: Tensor, targets: Tensor, instead: Tensor | None) -> Tensor:
    """KL(q' || p') of each token, what is not kept of q' as one outcome: (N, V), (N,), (N, 2 K) -> (N,)."""
    assert instead is not None
    tokens, logq = instead.tensor_split(2, dim=-1)
    tokens, q = tokens.long(), logq.exp()
    logps = logits.scatter(-1, targets.unsqueeze(-1), -math.inf).log_softmax(-1)
    left, of_left = (1 - q.sum(-1)).clamp_min(LEAST), logps.scatter(-1, tokens, -math.inf).clamp_min(LOWEST).logsumexp(-1)
    return (q * (logq - logps.gather(-1, tokens))).sum(-1) + left * (left.log() - of_left)
