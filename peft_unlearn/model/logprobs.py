"""From a batch to what losses are made of: log-probabilities and divergences at the label positions.

Nothing else sees the vocabulary; here it is a chunk of tokens at a time. Whatever is asked of a token's logits, here a scalar f of its hidden
state h, is computed with its gradient df/dh at once, (N, H) of them in place of (N, V) logits. To the backward pass f + df/dh (h - h) is as
good as f itself; so two products with the head are made, as many as with logits that are kept.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_unlearn.data.labels import IGNORE, label_places
from peft_unlearn.model import packing
from peft_unlearn.model.lm_head import Forward, Head, forward

FP16_SCALE = 256.0  # gradients within a chunk are this many times too long where the head computes in fp16, or small ones vanish

# (n, V) logits, (n,) true tokens, (n, V) logits of the anchor or None -> (n,)
OfLogits = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Dense(NamedTuple):
    """A forward as it is, prompt and padding included, for losses that read those too: B rows of at most S tokens."""

    logits: Tensor  # (B, S, V) fp32
    labels: Tensor  # (B, S) not shifted, -100 where there is none
    hidden: Tensor | None = None  # (B, S, H) fp32 hidden states of a layer, where one was asked for
    alternate: "Dense | None" = None  # of the answers to give instead, where the rows bring them


class Scores(NamedTuple):
    """What one forward over one stream gives: N label tokens in B rows of at most T + 1 tokens."""

    targets: Tensor  # (N,) the label tokens, row by row
    logps: Tensor  # (B, T) fp32 log-probability of each next token, 0 outside the mask; (0,) of an anchor that was not asked for it
    mask: Tensor  # (B, T) bool, true where the next token is a label
    states: Tensor  # (N, H) the last hidden states, of which `head` makes logits
    head: Head
    hidden: Tensor | None = None  # (N, H) fp32 hidden states of a layer, where one was asked for
    target_logps: Tensor | None = None  # (B, T) target log-probabilities, where the rows bring them
    alternate: "Scores | None" = None  # of the answers to give instead, where the rows bring them
    dense: Dense | None = None  # the same at all positions, where that was asked for
    inner: Tensor | None = None  # (B, T) log-probabilities as an inner layer has them, where one was asked for
    of_logits: Mapping[str, Tensor] = {}  # (N,) fp32, by the names they were asked for by


def score(
    model: nn.Module,
    batch: dict[str, Any],
    layer: int | None = None,
    dense: bool = False,
    inner: tuple[int, nn.Module] | None = None,
    asked: Mapping[str, tuple[OfLogits, Scores | Forward | None]] | None = None,
    logps: bool = True,
    trained: bool = True,
) -> Scores:
    """Forward `batch` (`input_ids`, `attention_mask`, `labels`, each (B, T + 1), padded on the right) and score its labels.

    Args:
        layer: keep the hidden states after so many layers (0: the embeddings).
        dense: keep what all positions give besides, logits included.
        inner: also read the labels' log-probabilities off the hidden states after so many layers, with the final norm and head.
        asked: what else is to be made of each label's logits, and the scores of the anchor that it reads, if any.
        logps: whether log-probabilities are wanted, or hidden states alone.
        trained: whether log-probabilities are to have gradients, or only values.
    """
    mask = batch["labels"][:, 1:] != IGNORE
    places = batch["places"] if "places" in batch else label_places(batch["labels"])
    targets = batch["labels"].flatten()[places + 1]
    more = {"output_hidden_states": layer is not None or inner is not None}
    if not dense and "kept" in batch and len(batch["kept"]) < mask.numel() and packing.takes(model, mask.shape[1]):
        found = packing.forward(model, batch["input_ids"], batch["kept"], **more)
        places = torch.searchsorted(batch["kept"], places)
    else:
        # Padding stands behind its row, where a causal model does not look; without a mask attention takes its fastest kernel.
        found = forward(model, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"] if dense else None, **more)
    states, layers = found.states.flatten(0, 1)[places], found.output.hidden_states
    wanted: dict[str, tuple[OfLogits, Scores | Forward | None]] = {
        **({"": (true_logps if trained else _fixed_logps, None)} if logps else {}),
        **(asked or {}),
    }
    of_logits = dict(zip(wanted, by_chunks(list(wanted.values()), states, found.head, targets), strict=True))
    hidden = None if layer is None else layers[layer]
    alternate = score(model, batch["alternate"], layer, dense, logps=logps) if "alternate" in batch else None
    return Scores(
        targets,
        spread(of_logits.pop(""), mask) if logps else states.new_empty(0),
        mask,
        states,
        found.head,
        None if hidden is None else hidden.flatten(0, 1)[places].float(),
        batch["target_logps"][:, 1:] if "target_logps" in batch else None,
        alternate,
        _dense(found, batch["labels"], hidden, alternate) if dense else None,
        None if inner is None else spread(_inner_logps(found, layers[inner[0]].flatten(0, 1)[places], inner[1], targets), mask),
        of_logits,
    )


def _inner_logps(found: Forward, states: Tensor, readout: nn.Module, targets: Tensor) -> Tensor:
    """Log-probability of each true token as an inner layer has it, whose states final norm and head read: (N, H), (N,) -> (N,)."""
    trained = any(p.requires_grad for p in readout.parameters())
    head = Head(lambda states: readout(states).float(), found.head.vocabulary, trained)
    states = states.to(next(readout.parameters()).dtype)  # accelerate gives those of a 16-bit model in fp32
    return by_chunks([(true_logps, None)], states, head, targets)[0]


def _dense(found: Forward, labels: Tensor, hidden: Tensor | None, alternate: Scores | None) -> Dense:
    """The same forward at all positions."""
    logits = found.head.logits(found.states.flatten(0, 1))
    logits = logits.view(*found.states.shape[:2], logits.shape[-1])
    return Dense(logits, labels, None if hidden is None else hidden.float(), None if alternate is None else alternate.dense)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """The values at the true places of a mask, row by row, and 0 elsewhere: (N,), (B, T) -> (B, T).

    Not by `masked_scatter`, in whose backward pass the host waits for a GPU.
    """
    places = mask.flatten()
    return F.pad(values, (1, 0)).gather(0, places.cumsum(0) * places).view(mask.shape)


def by_chunks(asked: Sequence[tuple[OfLogits, Scores | Forward | None]], states: Tensor, head: Head, targets: Tensor) -> list[Tensor]:
    """Each function of N tokens' logits, given with the states of the anchor it reads: (N, H), (N,) -> (N,) fp32 of each."""
    if not asked:
        return []
    differentiable = torch.is_grad_enabled() and states.requires_grad and not head.trained
    anchors = {id(anchor): anchor for _, anchor in asked if anchor is not None}
    size = max(1, len(states)) if head.trained else head.at_once
    values: list[list[Tensor]] = [[] for _ in asked]
    slopes: list[list[Tensor]] = [[] for _ in asked]
    for chunk in (slice(start, start + size) for start in range(0, max(1, len(states)), size)):
        h = states[chunk].detach().requires_grad_() if differentiable else states[chunk]
        logits = head.logits(h)
        with torch.no_grad():
            of_anchors = {key: anchor.head.logits(anchor.states[chunk]) for key, anchor in anchors.items()}
        for k, (function, anchor) in enumerate(asked):
            value = function(logits, targets[chunk], of_anchors.get(id(anchor)))
            if differentiable and value.requires_grad:
                slopes[k].append(_slope(value, h))
                value = value.detach()
            values[k].append(value)
    found = [torch.cat(parts) for parts in values]
    if not any(slopes):
        return found
    still = (states - states.detach()).float()  # zeros with a gradient
    return [value + (torch.cat(parts) * still).sum(-1) if parts else value for value, parts in zip(found, slopes, strict=True)]


def _slope(values: Tensor, states: Tensor) -> Tensor:
    """d values / d states, each of its own: (n,), (n, H) -> (n, H) fp32."""
    scale = FP16_SCALE if states.dtype == torch.float16 else 1.0
    (slope,) = torch.autograd.grad(values.sum() * scale, states, retain_graph=True)
    return slope.float() / scale


def true_logps(logits: Tensor, targets: Tensor, anchor: Tensor | None = None) -> Tensor:
    """Log-probability of each true token: (N, V), (N,) -> (N,)."""
    return logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def _fixed_logps(logits: Tensor, targets: Tensor, anchor: Tensor | None = None) -> Tensor:
    return true_logps(logits.detach(), targets)


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
    centered = d - (p * d).sum(-1, keepdim=True)
    return (p * centered.square()).sum(-1) / 2


DIVERGENCES = {"kl": kl, "qkl": qkl}


def from_anchor(divergence: str) -> OfLogits:
    """The divergence of that name from the anchor."""

    def of_logits(logits: Tensor, targets: Tensor, anchor: Tensor | None) -> Tensor:
        assert anchor is not None
        return DIVERGENCES[divergence](logits, anchor)

    return of_logits


def row_means(logps: Tensor, mask: Tensor) -> Tensor:
    """Mean log p of each row's labels: (B, T), (B, T) -> (B,)."""
    return logps.where(mask, 0.0).sum(-1) / mask.sum(-1).clamp_min(1)


def ranks(values: Tensor, mask: Tensor) -> Tensor:
    """Places of each row's values in ascending order, from 0, those outside the mask behind all others: (B, T), (B, T) -> (B, T)."""
    return values.masked_fill(~mask, math.inf).argsort(dim=-1, stable=True).argsort(-1)


def lowest(logps: Tensor, mask: Tensor, share: float = 0.4) -> Tensor:
    """The lowest `share` of each row's log p, at least one: (B, T), (B, T) -> (B, T) booleans."""
    count = (mask.sum(-1, keepdim=True) * share).int().clamp_min(1)
    return mask & (ranks(logps, mask) < count)


def matched(target_logps: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Each row's targets in the order of its values, all (B, T): the token of the lowest value gets the lowest target."""
    return target_logps.masked_fill(~mask, math.inf).sort(-1).values.gather(-1, ranks(values, mask)).where(mask, 0.0)


@torch.no_grad()
def mean_nll(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    """Sum of -log p and number of labels over `batches`, as a (2,) fp64 tensor."""
    total = [torch.stack([-s.logps.double().sum(), s.mask.sum().double()]) for s in (score(model, b) for b in batches)]
    return torch.stack(total).sum(0)
