"""The logit margin, the forget loss of PDU."""

from torch import Tensor

from peft_unlearn.util.registry import loss


@loss(paper="2506.05314", lowers=False)
def logit_margin(logits: Tensor) -> Tensor:
    """Squared logit margin, (max_v z_v - mean_v z_v)^2, 0 where all tokens are equally likely.

    With m that margin, the gradient is 2 m on the largest logit (shared by those that tie) and -2 m / V on each: it knows no true token,
    asks for a flat distribution wherever the forget answers stand, and pulls with the margin, not with the probability.

    Args:
        logits: (N, V) of the student.

    Returns:
        (N,) losses.

    >>> import torch
    >>> logit_margin(torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 3.0]]))
    tensor([2.7778, 2.7778])

    Source: Entesari et al., 2025, arXiv 2506.05314 (PDU).
    """
    return (logits.amax(-1) - logits.mean(-1)).square()
