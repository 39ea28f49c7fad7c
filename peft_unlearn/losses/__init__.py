"""Forget losses: pure functions of what a model says at the label positions.

A loss is *minimised*. It never sees a model: where its inputs come from is `peft_unlearn.logprobs`' business. The names of its positional
parameters say what it reads, its own parameters are keyword-only:

- `logps` (B, T) log-probabilities of the true tokens, `mask` (B, T) true at label positions;
- `logits` (N, V) at the N label positions, in row-major order of the mask, `targets` (N,) the true tokens there;
- `hidden` (N, H) hidden states of a chosen layer at the label positions;
- the same with `ref_` of the reference, with `alt_` of an alternate answer (B, T2), with `alt_ref_` of both.

A loss per token returns the shape of `logps`, or (N,), and leaves it to the trainer to pass over what stands outside the mask; one per sequence
returns (B,). The trainer averages over all tokens (or sequences) of the whole accumulated batch.

What a loss does is its gradient: here with respect to the true token's logit, (1 - p) d loss / d log p, for a token that is hardly known,
known and memorised. Gradient ascent and UCE let go of what is memorised; NLUL holds on to it, down to its `tol`.

>>> import torch
>>> def pull(loss):
...     p = torch.tensor([0.01, 0.5, 0.999], dtype=torch.float64)
...     logps = p.log().requires_grad_()
...     loss(logps).sum().backward()
...     return ((1 - p) * logps.grad).numpy().round(3).tolist()
>>> pull(ga), pull(uce)
([0.99, 0.5, 0.001], [0.005, 0.167, 0.001])
>>> pull(lambda logps: nlul(logps, tol=0)), pull(nlul)
([0.01, 0.5, 0.999], [0.01, 0.481, 0.048])
>>> pull(wga), pull(satimp)
([0.01, 0.25, 0.001], [0.0, 0.008, 0.0])

The same of losses that read logits, here of two tokens and at the start, where the student is the reference. CE-U pulls as NLUL without tol
does, the inverted hinge as gradient ascent does on memorised text, and UNDIAL by what the lowered reference no longer holds.

>>> def pull(loss):
...     p = torch.tensor([0.01, 0.5, 0.999], dtype=torch.float64)
...     logits = torch.stack([p, 1 - p], -1).log().requires_grad_()
...     loss(logits, torch.zeros(3, dtype=torch.long)).sum().backward()
...     return logits.grad[:, 0].numpy().round(3).tolist()
>>> pull(ceu), pull(ihl), pull(lambda logits, targets: undial(logits, targets, logits.detach()))
([0.01, 0.5, 0.999], [0.02, 0.5, 0.002], [0.01, 0.5, 0.956])
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from peft_unlearn.losses.ascent import ga, nll
from peft_unlearn.losses.ceu import ceu
from peft_unlearn.losses.dpo import dpo
from peft_unlearn.losses.ihl import ihl
from peft_unlearn.losses.log_odds import log_odds
from peft_unlearn.losses.logit_margin import logit_margin
from peft_unlearn.losses.nlul import nlul
from peft_unlearn.losses.npo import npo
from peft_unlearn.losses.rmu import hidden_distance, rmu
from peft_unlearn.losses.simnpo import simnpo
from peft_unlearn.losses.uce import uce
from peft_unlearn.losses.undial import undial
from peft_unlearn.losses.weighted_ascent import satimp, wga

__all__ = [
    "LOSSES",
    "Loss",
    "ceu",
    "dpo",
    "ga",
    "hidden_distance",
    "ihl",
    "log_odds",
    "logit_margin",
    "nll",
    "nlul",
    "npo",
    "rmu",
    "satimp",
    "simnpo",
    "uce",
    "undial",
    "wga",
]


@dataclass(frozen=True)
class Loss:
    """A loss function with what the trainer must know to call and average it."""

    function: Callable
    per: Literal["token", "sequence"] = "token"

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the positional parameters, in their order: the inputs to give it."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)

    @property
    def reference(self) -> bool:
        """Whether the reference must be run."""
        return any(name.startswith(("ref_", "alt_ref_")) for name in self.reads)

    @property
    def alternate(self) -> bool:
        """Whether forget rows need an alternate answer."""
        return any(name.startswith("alt_") for name in self.reads)

    @property
    def hidden(self) -> bool:
        """Whether it reads hidden states."""
        return "hidden" in self.reads


LOSSES: dict[str, Loss] = {
    "ga": Loss(ga),
    "nll": Loss(nll),  # learns the forget set: for an adapter that is negated afterwards
    "nlul": Loss(nlul),
    "uce": Loss(uce),
    "log_odds": Loss(log_odds),
    "npo": Loss(npo, per="sequence"),
    "simnpo": Loss(simnpo, per="sequence"),
    "dpo": Loss(dpo, per="sequence"),
    "ihl": Loss(ihl),
    "wga": Loss(wga),
    "satimp": Loss(satimp),
    "undial": Loss(undial),
    "ceu": Loss(ceu),
    "rmu": Loss(rmu),
    "logit_margin": Loss(logit_margin),
}
