"""Labels: the tokens that carry loss, and where they are predicted."""

import numpy as np
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # a label that is none: prompt and padding


def label_places(labels: Tensor) -> Tensor:
    """Where the next token is a label: (B, S) -> (N,) numbers of positions, row by row."""
    return F.pad(labels[:, 1:] != IGNORE, (0, 1)).flatten().nonzero().squeeze(1)


def kept_places(labels: Tensor) -> Tensor:
    """What a causal model has to read: of each row all up to where its last label is predicted, (B, S) -> (N,) numbers of positions, row by row."""
    ahead = F.pad(labels[:, 1:] != IGNORE, (0, 1)).flip(1).cumsum(1).flip(1)
    return (ahead > 0).flatten().nonzero().squeeze(1)


def fault(ids: np.ndarray, labels: np.ndarray, length: int, vocabulary: int | None = None) -> str | None:
    """What keeps a row of tokens from being trained on; None if nothing does.

    Args:
        length: tokens that a row may have.
        vocabulary: tokens that the model knows, where that is known.
    """
    if len(ids) != len(labels):
        return f"{len(ids)} input_ids and {len(labels)} labels, give each token one"
    if len(ids) > length:
        return f"{len(ids)} tokens and max_length is {length}, cut the row"
    if not (labels[1:] != IGNORE).any():
        return "no label after its first token, take the row out"
    for token in (ids.min(), ids.max()):
        if token < 0 or (vocabulary is not None and token >= vocabulary):
            return f"token {token}, which the model has not; tokenize it again"
    if ((labels != IGNORE) & (labels != ids)).any():
        return "a label that is another token than its own, write the token itself or -100"
    return None
