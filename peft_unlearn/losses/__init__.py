"""Forget losses: pure functions of the log-probabilities of the true tokens.

A loss is *minimised*. It never sees a model: where the log-probabilities come from is `peft_unlearn.logprobs`' business. Two kinds:

- per token: `loss(logps, **parameters)` maps log-probabilities of any shape to losses of the same shape;
- per sequence: `loss(logps, ref_logps, mask, **parameters)` maps (B, T) log-probabilities, those of the reference (None where the
  loss needs none), and a (B, T) mask of the label positions to (B,) losses.

The trainer averages over all tokens (or sequences) of the whole accumulated batch. Parameters of a loss are keyword-only.

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
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from peft_unlearn.losses.ascent import ga, nll
from peft_unlearn.losses.nlul import nlul
from peft_unlearn.losses.npo import npo
from peft_unlearn.losses.uce import uce

__all__ = ["LOSSES", "Loss", "ga", "nll", "nlul", "npo", "uce"]


@dataclass(frozen=True)
class Loss:
    """A loss function with what the trainer must know to call and average it."""

    function: Callable
    per: Literal["token", "sequence"] = "token"
    reference: bool = False


LOSSES: dict[str, Loss] = {
    "ga": Loss(ga),
    "nlul": Loss(nlul),
    "uce": Loss(uce),
    "npo": Loss(npo, per="sequence", reference=True),
}
