"""UNDIAL: the student learns the reference's distribution with the true token's logit lowered."""

from torch import Tensor

from peft_unlearn.util.registry import loss


def soft_cross_entropy(logits: Tensor, target_logits: Tensor) -> Tensor:
    """-sum_v q_v log p_v of each token, p = softmax(logits), q = softmax(target_logits) held constant: (N, V), (N, V) -> (N,).

    Its gradient on the logits is p - q. A token with q_v = 0 counts nothing, even where p_v is 0 too.
    """
    q = target_logits.detach().softmax(-1)
    return -(q * logits.log_softmax(-1).where(q != 0, 0.0)).sum(-1)


@loss(paper="2402.10052", ranges={"beta": "at least 0"})
def undial(logits: Tensor, targets: Tensor, ref_logits: Tensor, *, beta: float = 10.0) -> Tensor:
    """Cross-entropy to softmax(z_ref - beta * onehot(y)), the self-distillation of UNDIAL.

    The gradient on the logits is p - q: at the start p_y - q_y on the true token, nearly 1 where it is memorized, and 0 once the student is
    the adjusted reference. So it stops at a place that is known beforehand, and the odds among the other tokens stay those of the reference.

    Args:
        logits: (N, V) of the student.
        targets: (N,) true tokens.
        ref_logits: (N, V) of the reference.
        beta: by how much the true token's logit is lowered, in nats, at least 0.

    Returns:
        (N,) losses.

    >>> import torch
    >>> logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
    >>> undial(logits, torch.tensor([0, 0]), logits)
    tensor([2.4382, 0.4083])

    Source: Dong et al., 2024, arXiv 2402.10052.
    """
    true = targets.unsqueeze(-1)
    return soft_cross_entropy(logits, ref_logits.scatter(-1, true, ref_logits.gather(-1, true) - beta))
