"""Gradient ascent on the likelihood's negative, and the likelihood itself: the two ends between which unlearning works."""

from torch import Tensor


def ga(logps: Tensor) -> Tensor:
    """Gradient ascent on the cross-entropy: log p, the LL of the mean-teacher paper.

    Its gradient with respect to the true token's logit is 1 - p: nothing is left of it where the text is memorised, and it has no floor
    where the text is gone.

    Args:
        logps: log-probabilities of the true tokens in nats, any shape.

    Returns:
        Losses of the same shape.

    Source: Jang et al., 2023, arXiv 2210.01504.
    """
    return logps


def nll(logps: Tensor) -> Tensor:
    """Negative log-likelihood of each token, -log p: the cross-entropy of the retain set.

    Args:
        logps: log-probabilities of the true tokens in nats, any shape.

    Returns:
        Losses of the same shape.
    """
    return -logps
