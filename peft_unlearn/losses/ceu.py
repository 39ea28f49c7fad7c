"""CE-U: cross-entropy to the student's own distribution without the true token."""

import math

from torch import Tensor

from peft_unlearn.losses.undial import soft_cross_entropy
from peft_unlearn.util.registry import loss


@loss(paper="2503.01224")
def ceu(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy unlearning, CE(z, softmax(z with z_y = -inf)), the target held constant.

    Its gradient on the logits is p_y on the true token and -p_y q_v on the others, q being what they would share without it. That is NLUL's
    at tol = 0, of which it is the form in logits: the value is -log(1 - p_y) plus the entropy of q. It needs no 1 - p_y and so keeps its
    digits where p_y rounds to 1.

    Args:
        logits: (N, V) of the student, V at least 2.
        targets: (N,) true tokens.

    Returns:
        (N,) losses.

    >>> import torch
    >>> ceu(torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 3.0]]), torch.tensor([0, 0]))
    tensor([2.4388, 0.4083])

    Source: arXiv 2503.01224 (CE-U), 2025. The paper leaves the first token of an answer out; here every label counts.
    """
    return soft_cross_entropy(logits, logits.scatter(-1, targets.unsqueeze(-1), -math.inf))
