"""DPO with the forget answer rejected and an alternate answer chosen."""

import torch.nn.functional as F
from torch import Tensor

from peft_unlearn.util.registry import loss


@loss(per="sequence", paper=("2305.18290", "2401.06121"), ranges={"beta": "above 0"})
def dpo(
    logps: Tensor, ref_logps: Tensor, mask: Tensor, alt_logps: Tensor, alt_ref_logps: Tensor, alt_mask: Tensor, *, beta: float = 0.1
) -> Tensor:
    """Preference loss of each pair of answers, -(2 / beta) log sigmoid(beta * (sum_t alternate log-ratio - sum_t forget log-ratio)).

    A log-ratio is log p - log p_ref, summed over an answer's tokens. With d the difference in the sigmoid, the gradient is
    +2 sigmoid(-beta d) on each log p of the forget answer and -2 sigmoid(-beta d) on each of the alternate: 1 and -1 at the start. The
    factor 2 / beta, where the DPO paper has 1, makes it NPO where the alternate's log-ratio is 0. With "I don't know" as the alternate it is
    TOFU's IdkDPO, with alternates that the model wrote itself the loss of AltPO.

    Args:
        logps: (B, T) log-probabilities of the forget answer's tokens in nats.
        ref_logps: (B, T) those of the reference.
        mask: (B, T) true at label positions; what stands elsewhere is never read.
        alt_logps, alt_ref_logps, alt_mask: (B, T2) the same of the alternate answer.
        beta: inverse temperature, above 0.

    Returns:
        (B,) losses.

    >>> import torch
    >>> forget, alternate, mask = torch.tensor([[-0.1, -0.2]]), torch.tensor([[-3.0, -4.0]]), torch.ones(1, 2)
    >>> dpo(forget, forget, mask, alternate, alternate, mask)
    tensor([13.8629])
    >>> dpo(forget - 2, forget, mask, alternate + 1, alternate, mask)
    tensor([8.7498])

    Source: Rafailov et al., 2023, arXiv 2305.18290; for forgetting Maini et al., 2024, arXiv 2401.06121 (TOFU).
    """
    forget = (logps - ref_logps).where(mask.bool(), 0.0).sum(-1)
    alternate = (alt_logps - alt_ref_logps).where(alt_mask.bool(), 0.0).sum(-1)
    return -2 / beta * F.logsigmoid(beta * (alternate - forget))
