"""Gradient ascent on the likelihood's negative."""

from torch import Tensor

from peft_unlearn.util.registry import loss


@loss(paper="2210.01504")
def ga(logps: Tensor) -> Tensor:
    """Gradient ascent on the cross-entropy: log p, the LL of the mean-teacher paper.

    Its gradient with respect to the true token's logit is 1 - p: nothing is left of it where the text is memorized, and it has no floor
    where the text is gone.

    Args:
        logps: log-probabilities of the true tokens in nats, any shape.

    Returns:
        Losses of the same shape.

    >>> import torch
    >>> ga(torch.tensor([0.999, 0.5, 0.01]).log())
    tensor([-1.0005e-03, -6.9315e-01, -4.6052e+00])

    Source: Jang et al., 2023, arXiv 2210.01504.
    """
    return logps
