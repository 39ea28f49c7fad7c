"""WGA: gradient ascent whose tokens are weighted by how well they are known."""

import torch
from torch import Tensor

from peft_unlearn.util.registry import loss


@loss(paper="2502.19301", ranges={"beta": "at least 0"})
def wga(logps: Tensor, *, beta: float = 1.0) -> Tensor:
    """Weighted gradient ascent, p^beta log p with the weight p^beta held constant.

    The gradient with respect to log p is the weight itself: 1 where the text is memorized, as in gradient ascent, but 0 where it is gone.

    Args:
        logps: log-probabilities of the true tokens in nats, any shape.
        beta: how soon the weight dies, at least 0; 0 is gradient ascent.

    Returns:
        Losses of the same shape.

    >>> wga(torch.tensor([0.999, 0.5, 0.01]).log())
    tensor([-0.0010, -0.3466, -0.0461])

    Source: Wang et al., 2025, arXiv 2502.19301.
    """
    return torch.exp(beta * logps.detach()) * logps
