"""Which tokens of an answer are the model's first choice."""

import numpy as np

from peft_unlearn.model.scoring import RowScore


def correct_tokens(score: RowScore) -> np.ndarray | None:
    """(T,) 1 and 0 for right and wrong tokens, end token out; NaN where the model gave NaN: a broken model must not read as a forgetful one.

    None where there is no token.
    """
    size = score.correct.size - score.end
    return np.where(np.isnan(score.logps), np.nan, score.correct)[:size] if size else None
