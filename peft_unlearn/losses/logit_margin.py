"""Logit-margin flattening, the forget loss of PDU."""

from torch import Tensor


def logit_margin(logits: Tensor) -> Tensor:
    """(max_v z_v - mean_v z_v)^2, 0 where all tokens are equally likely.

    With m that margin, the gradient is 2 m on the largest logit (shared by those that tie) and -2 m / V on each: it knows no true token,
    asks for a flat distribution wherever the forget answers stand, and pulls with the margin, not with the probability.

    Args:
        logits: (N, V) of the student.

    Returns:
        (N,) losses.

    Source: Entesari et al., 2025, arXiv 2506.05314 (PDU).
    """
    return (logits.amax(-1) - logits.mean(-1)).square()
