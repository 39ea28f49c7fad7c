"""UCE, the bounded forget loss of MOLLM."""

import torch
from torch import Tensor

from peft_unlearn.util.registry import loss


@loss(paper="2412.20412")
def uce(logps: Tensor) -> Tensor:
    """Unlearning cross-entropy, -log(1 - p/2), between 0 (forgotten) and log 2 (memorized).

    Its gradient is p / (2 - p) with respect to log p, and p (1 - p) / (2 - p) with respect to the true token's logit: largest (0.172) at
    p = 0.586, and 0 at both ends. So it stops by itself, and starts slowly on memorized text.

    Args:
        logps: log-probabilities of the true tokens in nats, any shape.

    Returns:
        Losses of the same shape.

    >>> uce(torch.tensor([0.999, 0.5, 0.01]).log())
    tensor([0.6921, 0.2877, 0.0050])

    Source: Pan et al., 2025, arXiv 2412.20412 (MOLLM).
    """
    return -torch.log1p(-torch.exp(logps) / 2)
