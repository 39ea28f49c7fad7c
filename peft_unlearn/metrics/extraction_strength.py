"""Extraction strength: how little of an answer must be given for the model to write the rest."""

import numpy as np

from peft_unlearn.metrics.correct import correct_tokens
from peft_unlearn.model.scoring import RowScore
from peft_unlearn.util.registry import metric


@metric(needs="scores", direction="lower", paper=("2012.07805", "2506.12618"), order=2)
def extraction_strength(score: RowScore) -> float | None:
    """Share of the answer that greedy decoding completes by itself once it is given the rest; forgotten is low.

    1 - k/T, k the length of the shortest prefix of y from which teacher-forced greedy decoding gives the rest; end token out. 0 where no prefix
    does. Source: Carlini et al., arXiv 2012.07805, and OpenUnlearning (arXiv 2506.12618), whose code gives 1/T there.
    """
    correct = correct_tokens(score)
    if correct is None:
        return None
    wrong = np.flatnonzero(correct != 1)
    k = wrong[-1] + 1 if wrong.size else 0
    return float(1 - k / correct.size) if np.isfinite(correct).all() else float("nan")
