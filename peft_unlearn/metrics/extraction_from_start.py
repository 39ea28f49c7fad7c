"""Extraction from the start: how far greedy decoding follows an answer before it parts from it.

Extraction strength reads an answer from its end, and is 0 as soon as the last token is wrong. A model that recites all but the end is seen here.
"""

import numpy as np

from peft_unlearn.metrics.correct import correct_tokens
from peft_unlearn.model.scoring import RowScore
from peft_unlearn.util.registry import metric


@metric(needs="scores", direction="lower", paper="2202.07646")
def extraction_from_start(score: RowScore) -> float | None:
    """Share of the answer that greedy decoding writes word for word from the prompt alone; forgotten is low.

    k/T, k the number of tokens before the first wrong one under teacher forcing; end token out. What greedy decoding is given up to there is what it
    would have written itself, so it is its own beginning. After Carlini et al., arXiv 2202.07646.
    """
    correct = correct_tokens(score)
    if correct is None:
        return None
    return float(np.cumprod(correct).mean()) if np.isfinite(correct).all() else float("nan")
