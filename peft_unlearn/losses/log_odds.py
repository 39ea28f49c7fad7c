"""The log-odds loss: a pull that is the same whether a token is memorized or nearly gone."""

from torch import Tensor

from peft_unlearn.losses.nlul import nlul
from peft_unlearn.util.registry import loss


@loss(ranges={"tol": "at least 0"})
def log_odds(logps: Tensor, *, tol: float = 0.02) -> Tensor:
    """Log-odds of each token, log p - log(1 + tol - p): gradient ascent and NLUL in one.

    Gradient ascent pulls on the true token's logit with 1 - p and lets go of what is memorized; NLUL pulls with p and lets go of what is
    nearly gone. Their sum pulls with 1 at tol = 0, everywhere: it starts at once, and it reaches any target. It has no end of its own, and so
    belongs with `stop_at` or a floor.

    Args:
        logps: log-probabilities of the true tokens in nats, any shape.
        tol: distance of NLUL's pole from p = 1, at least 0.

    Returns:
        Losses of the same shape.

    >>> import torch
    >>> log_odds(torch.tensor([0.999, 0.5, 0.01]).log(), tol=0.0)
    tensor([ 6.9068,  0.0000, -4.5951])

    Source: our own, from arXiv 2504.13388's NLUL; docs/concepts/forget-losses.md has what it changes.
    """
    return logps + nlul(logps, tol=tol)
