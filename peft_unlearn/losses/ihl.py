"""IHL, the inverted hinge loss of LoKU: the true token gives way to the next most likely one."""

from torch import Tensor

from peft_unlearn.util.registry import loss


@loss(paper="2408.06621")
def ihl(logits: Tensor, targets: Tensor) -> Tensor:
    """Inverted hinge loss, 1 + p_y - max_{v != y} p_v, between 0 (another token is certain) and 2 (the true one is).

    With m the strongest other token, the gradient on the logits is p_y (1 - p_y + p_m) at y, -p_m (1 + p_y - p_m) at m and
    p_v (p_m - p_y) at every other v. It dies where the text is memorized, as gradient ascent does, but is bounded: where the true token is gone,
    what is left of it, p_m (1 - p_m), makes m more certain. Tokens that tie for m share its part equally. The hinge max(0, .) never binds,
    for p_m <= 1.

    Args:
        logits: (N, V) of the student, V at least 2.
        targets: (N,) true tokens.

    Returns:
        (N,) losses.

    >>> import torch
    >>> ihl(torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 3.0]]), torch.tensor([0, 0]))
    tensor([1.7296, 0.1982])

    Source: Cha et al., 2025, arXiv 2408.06621 (LoKU).
    """
    p = logits.softmax(-1)
    true = targets.unsqueeze(-1)
    strongest = p.scatter(-1, true, -1.0).amax(-1)  # -1: never the true token, and no gradient to it
    return 1 + p.gather(-1, true).squeeze(-1) - strongest
