"""NPO, negative preference optimization: DPO with the forget answer rejected and nothing chosen."""

import torch.nn.functional as F
from torch import Tensor

from peft_unlearn.util.registry import loss


@loss(per="sequence", paper="2404.05868", ranges={"beta": "above 0"})
def npo(logps: Tensor, ref_logps: Tensor, mask: Tensor, *, beta: float = 0.1, mean: bool = False) -> Tensor:
    """Negative preference loss of each sequence, -(2 / beta) log sigmoid(-beta * sum_t [log p - log p_ref]).

    The log-ratio is *summed* over the tokens, as in the paper; with r that sum, the gradient with respect to each token's log p is
    2 sigmoid(beta r): 1 at the start, where it equals gradient ascent, and 0 once the sequence is far less likely than under the reference.

    Args:
        logps: (B, T) log-probabilities of the true tokens in nats.
        ref_logps: (B, T) those of the reference.
        mask: (B, T) true at label positions; what stands elsewhere is never read.
        beta: inverse temperature, above 0; towards 0 the loss becomes gradient ascent.
        mean: average the log-ratio over the tokens in place of summing it, as the code of arXiv 2504.13388 does; the gradient is then smaller by
            the number of tokens.

    Returns:
        (B,) losses.

    >>> import torch
    >>> logps = torch.tensor([[-0.1, -0.2], [-4.0, -5.0]])
    >>> reference, mask = torch.full((2, 2), -0.2), torch.ones(2, 2)
    >>> npo(logps, reference, mask)
    tensor([13.9632,  7.0576])

    Source: Zhang et al., 2024, arXiv 2404.05868.
    """
    log_ratio = (logps - ref_logps).where(mask.bool(), 0.0).sum(-1)
    if mean:
        log_ratio = log_ratio / mask.sum(-1).clamp_min(1)
    return -2 / beta * F.logsigmoid(-beta * log_ratio)
