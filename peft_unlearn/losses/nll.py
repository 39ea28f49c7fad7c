"""The cross-entropy that a language model is trained with."""

from torch import Tensor

from peft_unlearn.util.registry import loss


@loss(paper="2212.04089", lowers=False)
def nll(logps: Tensor) -> Tensor:
    """Negative log-likelihood of each token, -log p: the cross-entropy of the retain set.

    As a forget loss it learns the forget set, for an adapter that is negated afterwards (task arithmetic, arXiv 2212.04089).

    Args:
        logps: log-probabilities of the true tokens in nats, any shape.

    Returns:
        Losses of the same shape.

    >>> import torch
    >>> nll(torch.tensor([0.999, 0.5, 0.01]).log())
    tensor([1.0005e-03, 6.9315e-01, 4.6052e+00])
    """
    return -logps
