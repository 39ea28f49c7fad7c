"""SimNPO: NPO without a reference, on the mean log-probability of a sequence."""

import torch.nn.functional as F
from torch import Tensor

from peft_unlearn.util.registry import loss


@loss(per="sequence", paper="2410.07163", ranges={"beta": "above 0", "gamma": "at least 0"})
def simnpo(logps: Tensor, mask: Tensor, *, beta: float = 4.5, gamma: float = 0.0) -> Tensor:
    """Simple negative preference loss of each sequence, -(2 / beta) log sigmoid(-beta * mean_t log p - gamma).

    The *mean* stands where NPO has a sum of log-ratios, so that a sequence's length does not decide how soon it is let go of. With m that
    mean, the gradient with respect to each of T tokens' log p is 2 sigmoid(beta m + gamma) / T: about 1 / T where the text is memorized (at
    gamma 0), and 0 once m is far below 0. A sequence without labels has no gradient.

    Args:
        logps: (B, T) log-probabilities of the true tokens in nats.
        mask: (B, T) true at label positions; what stands elsewhere is never read.
        beta: inverse temperature, above 0.
        gamma: margin, at least 0; above 0 it goes on pulling at sequences that are already unlikely. OpenUnlearning writes beta * (loss - delta),
            whose delta is gamma / beta.

    Returns:
        (B,) losses.

    >>> import torch
    >>> simnpo(torch.tensor([[-0.1, -0.2], [-4.0, -5.0]]), torch.ones(2, 2))
    tensor([1.8291e-01, 7.1343e-10])

    Source: Fan et al., 2024, arXiv 2410.07163.
    """
    mean = logps.where(mask.bool(), 0.0).sum(-1) / mask.sum(-1).clamp_min(1)
    return -2 / beta * F.logsigmoid(-beta * mean - gamma)
