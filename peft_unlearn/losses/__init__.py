"""Forget losses: pure functions of what a model says at the label positions.

A loss is *minimized*. It never sees a model: where its inputs come from is the business of `peft_unlearn.model.logprobs`. Each is a file of this
folder, known to recipes, checks and cards by its `@loss` decorator (docs/howto/add-a-loss.md). The names of its positional parameters say what it
reads, its own parameters are keyword-only and have a default:

- `logps` (B, T) log-probabilities of the true tokens, `mask` (B, T) true at label positions;
- `logits` (N, V) at the N label positions, in row-major order of the mask, `targets` (N,) the true tokens there;
- `hidden` (N, H) hidden states of a chosen layer at the label positions;
- the same with `ref_` of the reference, with `alt_` of an alternate answer (B, T2), with `alt_ref_` of both.

A loss per token returns the shape of `logps`, or (N,), and leaves it to the trainer to pass over what stands outside the mask; one per sequence
returns (B,). The trainer averages over all tokens (or sequences) of the whole accumulated batch.

What a loss does is its gradient: here with respect to the true token's logit, (1 - p) d loss / d log p, for a token that is hardly known,
known and memorized. Gradient ascent and UCE let go of what is memorized; NLUL holds on to it, down to its `tol`.

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
does, the inverted hinge as gradient ascent does on memorized text, and UNDIAL by what the lowered reference no longer holds.

>>> def pull(loss):
...     p = torch.tensor([0.01, 0.5, 0.999], dtype=torch.float64)
...     logits = torch.stack([p, 1 - p], -1).log().requires_grad_()
...     loss(logits, torch.zeros(3, dtype=torch.long)).sum().backward()
...     return logits.grad[:, 0].numpy().round(3).tolist()
>>> pull(ceu), pull(ihl), pull(lambda logits, targets: undial(logits, targets, logits.detach()))
([0.01, 0.5, 0.999], [0.02, 0.5, 0.002], [0.01, 0.5, 0.956])
"""

from typing import TYPE_CHECKING

from peft_unlearn.losses.rmu import hidden_distance
from peft_unlearn.util.parts import Loss
from peft_unlearn.util.registry import LOSSES

if TYPE_CHECKING:  # type checkers take a file for a function of its name otherwise; at run time nothing needs these lines
    from peft_unlearn.losses.ceu import ceu as ceu
    from peft_unlearn.losses.dpo import dpo as dpo
    from peft_unlearn.losses.ga import ga as ga
    from peft_unlearn.losses.ihl import ihl as ihl
    from peft_unlearn.losses.log_odds import log_odds as log_odds
    from peft_unlearn.losses.logit_margin import logit_margin as logit_margin
    from peft_unlearn.losses.nll import nll as nll
    from peft_unlearn.losses.nlul import nlul as nlul
    from peft_unlearn.losses.npo import npo as npo
    from peft_unlearn.losses.rmu import rmu as rmu
    from peft_unlearn.losses.satimp import satimp as satimp
    from peft_unlearn.losses.simnpo import simnpo as simnpo
    from peft_unlearn.losses.uce import uce as uce
    from peft_unlearn.losses.undial import undial as undial
    from peft_unlearn.losses.wga import wga as wga

# Each loss under its name, over the submodule of that name. Those of other packages are in LOSSES alone.
globals().update({name: loss.function for name, loss in LOSSES.own.items()})

__all__ = ["LOSSES", "Loss", "hidden_distance", *LOSSES.own]  # names that the files of this folder register
