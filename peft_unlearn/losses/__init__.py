"""Forget losses: pure functions of what a model says at the label positions.

A loss is *minimised*. It never sees a model: where its inputs come from is the business of `peft_unlearn.model.logprobs`. Each is a file of this
folder, known to recipes, checks and cards by its `@loss` decorator (docs/howto/add-a-loss.md). The names of its positional parameters say what it
reads, its own parameters are keyword-only and have a default:

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

from peft_unlearn.losses.rmu import hidden_distance
from peft_unlearn.util.registry import LOSSES, Loss

# Each loss under its name, over the submodule of that name. Those of other packages are in LOSSES alone.
globals().update({name: loss.function for name, loss in LOSSES.own.items()})

__all__ = ["LOSSES", "Loss", "hidden_distance", *LOSSES.own]  # noqa: PLE0604  # names that the files of this folder register
