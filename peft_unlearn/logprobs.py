"""From a batch to what losses are made of: logits, log-probabilities and divergences at the label positions.

This is the one room that sees the vocabulary. Logits are kept at label positions only, in fp32, unless all are asked for.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

IGNORE = -100

Readout = Callable[[Tensor], Tensor]  # (..., H) hidden states of an inner layer -> (..., V) logits


class Dense(NamedTuple):
    """A forward as it is, prompt and padding included, for losses that read those too: B rows of at most S tokens."""

    logits: Tensor  # (B, S, V) fp32
    labels: Tensor  # (B, S) not shifted, -100 where there is none
    hidden: Tensor | None = None  # (B, S, H) fp32 hidden states of a layer, where one was asked for
    alternate: "Dense | None" = None  # of the answers to give instead, where the rows bring them


class Scores(NamedTuple):
    """What one forward over one stream gives: N label tokens in B rows of at most T + 1 tokens."""

    logits: Tensor  # (N, V) fp32
    targets: Tensor  # (N,) the label tokens, row by row
    logps: Tensor  # (B, T) fp32 log-probability of each next token, 0 outside the mask
    mask: Tensor  # (B, T) bool, true where the next token is a label
    hidden: Tensor | None = None  # (N, H) fp32 hidden states of a layer, where one was asked for
    levels: Tensor | None = None  # (B, T) log-probabilities to land on, where the rows bring them
    alternate: "Scores | None" = None  # of the answers to give instead, where the rows bring them
    dense: Dense | None = None  # the same at all positions, where that was asked for
    inner: Tensor | None = None  # (B, T) log-probabilities as an inner layer has them, where one was asked for


def score(
    model: nn.Module, batch: dict[str, Any], layer: int | None = None, dense: bool = False, inner: tuple[int, Readout] | None = None
) -> Scores:
    """Forward `batch` (`input_ids`, `attention_mask`, `labels`, each (B, T + 1)) and score its labels.

    Args:
        layer: keep the hidden states after so many layers (0: the embeddings).
        dense: keep what all positions give besides.
        inner: also read the labels' log-probabilities off the hidden states after so many layers, with the final norm and head.
    """
    targets = batch["labels"][:, 1:]
    mask = targets != IGNORE
    output = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        use_cache=False,
        output_hidden_states=layer is not None or inner is not None,
    )
    logits, labels = output.logits[:, :-1][mask].float(), targets[mask]
    hidden = None if layer is None else output.hidden_states[layer]
    alternate = score(model, batch["alternate"], layer, dense) if "alternate" in batch else None
    whole = None
    if dense:
        states = None if hidden is None else hidden.float()
        whole = Dense(output.logits.float(), batch["labels"], states, None if alternate is None else alternate.dense)
    return Scores(
        logits,
        labels,
        _logps(logits, labels, mask),
        mask,
        None if hidden is None else hidden[:, :-1][mask].float(),
        batch["levels"][:, 1:] if "levels" in batch else None,
        alternate,
        whole,
        None if inner is None else _logps(inner[1](output.hidden_states[inner[0]][:, :-1][mask]).float(), labels, mask),
    )


def _logps(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """(N, V), (N,), (B, T) -> (B, T)."""
    logps = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return logps.new_zeros(mask.shape).masked_scatter(mask, logps)


def kl(logits: Tensor, anchor: Tensor) -> Tensor:
    """KL(anchor || student) of each token: (N, V), (N, V) -> (N,)."""
    anchor_logps = anchor.log_softmax(-1)
    return (anchor_logps.exp() * (anchor_logps - logits.log_softmax(-1))).sum(-1)


def qkl(logits: Tensor, anchor: Tensor) -> Tensor:
    """Second-order expansion of that KL in d = logits - anchor: d'(diag P - PP')d / 2 with P = softmax(anchor), the variance of d under P.

    Source: mean teacher (arXiv 2504.13388), whose code has the same gradient and twice the value.
    """
    p = anchor.softmax(-1)
    d = logits - anchor
    centred = d - (p * d).sum(-1, keepdim=True)
    return (p * centred.square()).sum(-1) / 2


DIVERGENCES = {"kl": kl, "qkl": qkl}


def row_means(logps: Tensor, mask: Tensor) -> Tensor:
    """Mean log p of each row's labels: (B, T), (B, T) -> (B,)."""
    return logps.where(mask, 0.0).sum(-1) / mask.sum(-1).clamp_min(1)


def lowest(logps: Tensor, mask: Tensor, share: float = 0.4) -> Tensor:
    """The lowest `share` of each row's log p, at least one: (B, T), (B, T) -> (B, T) booleans."""
    count = (mask.sum(-1, keepdim=True) * share).int().clamp_min(1)
    return mask & (logps.masked_fill(~mask, math.inf).argsort(-1).argsort(-1) < count)


def matched(levels: Tensor, logps: Tensor, mask: Tensor) -> Tensor:
    """Each row's levels in the order of its log-probabilities, all (B, T): the lowest level goes to the least likely token."""
    ranks = logps.masked_fill(~mask, math.inf).argsort(-1).argsort(-1)
    return levels.masked_fill(~mask, math.inf).sort(-1).values.gather(-1, ranks).where(mask, 0.0)


@torch.no_grad()
def mean_nll(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    """Sum of -log p and number of labels over `batches`, as a (2,) fp64 tensor."""
    total = [torch.stack([-s.logps.double().sum(), s.mask.sum().double()]) for s in (score(model, b) for b in batches)]
    return torch.stack(total).sum(0)
