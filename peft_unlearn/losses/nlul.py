"""NLUL, the negative log of the unlikelihood: the loss that does not vanish on memorized text."""

import math

import torch
from torch import Tensor

from peft_unlearn.util.registry import loss


@loss(paper="2504.13388", ranges={"tol": "at least 0"})
def nlul(logps: Tensor, *, tol: float = 0.02) -> Tensor:
    """Negative log-unlikelihood, -log(1 + tol - p).

    Its gradient is p / (1 + tol - p) with respect to log p, and p (1 - p) / (1 + tol - p) with respect to the true token's logit: p
    itself at tol = 0, so it pulls hardest where the text is memorized and dies where it is gone. `tol` bounds the gradient with respect to
    log p by 1 / tol.

    With tol = 0 a log-probability that was rounded to 0 or above would have an infinite loss. Where 1 + tol - p is under eps^2 (1e-14 in
    fp32), log p is read as -eps instead, for log_softmax knows it no better. Its gradient is kept: 1 / eps on log p, of which the softmax,
    whose other tokens hold less than eps each, leaves at most 1 on any logit. A clamp would give the best-memorized tokens no gradient.

    Args:
        logps: log-probabilities of the true tokens in nats, any shape.
        tol: distance of the pole from p = 1, at least 0.

    Returns:
        Losses of the same shape.

    >>> nlul(torch.tensor([0.999, 0.5, 0.01]).log())
    tensor([ 3.8632,  0.6539, -0.0100])

    Source: Klochkov, 2025, arXiv 2504.13388; the gradient with `tol` is the one that the author's code back-propagates.
    """
    eps = torch.finfo(logps.dtype).eps
    certain = tol - torch.expm1(logps) < eps**2
    logps = torch.where(certain, logps - (logps + eps).detach(), logps)

    # Each form loses its digits where the other has them (Maechler, "Accurately computing log(1 - exp(-|a|))"). The clamps keep the
    # gradient of the form that is not selected finite.
    likely = logps > -math.log(2)
    near_one = torch.log(tol - torch.expm1(logps.clamp(min=-math.log(2))))
    near_zero = torch.log1p(tol - torch.exp(logps.clamp(max=-math.log(2))))
    return -torch.where(likely, near_one, near_zero)
