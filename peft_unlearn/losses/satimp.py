"""SatImp: gradient ascent whose tokens are weighted by saturation and importance."""

import torch
from torch import Tensor

from peft_unlearn.util.registry import loss


@loss(paper="2505.11953", ranges={"beta1": "at least 0", "beta2": "at least 0"})
def satimp(logps: Tensor, *, beta1: float = 5.0, beta2: float = 1.0) -> Tensor:
    """SatImp, p^beta1 (1 - p)^beta2 log p with the weight held constant.

    "Saturation" p^beta1 leaves out what is already forgotten, "importance" (1 - p)^beta2 what is certain. The gradient with respect to
    log p is the weight, largest at p = beta1 / (beta1 + beta2), where it is .067 with the defaults.

    Args:
        logps: log-probabilities of the true tokens in nats, any shape.
        beta1: exponent of p, at least 0.
        beta2: exponent of 1 - p, at least 0.

    Returns:
        Losses of the same shape.

    >>> satimp(torch.tensor([0.999, 0.5, 0.01]).log())
    tensor([-9.9548e-07, -1.0830e-02, -4.5591e-10])

    Source: Yang et al., 2025, arXiv 2505.11953.
    """
    known = logps.detach()
    unknown = (-torch.expm1(known)).clamp_min(0)  # a log-probability rounded above 0 has no power beta2
    return torch.exp(beta1 * known) * unknown**beta2 * logps
