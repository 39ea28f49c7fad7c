"""Labels: the tokens that carry loss, and where they are predicted."""

import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # a label that is none: prompt and padding


def label_places(labels: Tensor) -> Tensor:
    """Where the next token is a label: (B, S) -> (N,) numbers of positions, row by row."""
    return F.pad(labels[:, 1:] != IGNORE, (0, 1)).flatten().nonzero().squeeze(1)
