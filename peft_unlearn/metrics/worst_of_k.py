"""Worst of k: what forgetting one wording of a question leaves."""

from collections.abc import Sequence

import numpy as np

from peft_unlearn.metrics.extraction_strength import extraction_strength
from peft_unlearn.model.scoring import RowScore
from peft_unlearn.util.registry import metric


@metric(needs="scores", direction="lower")
def worst_of_k(score: RowScore, paraphrased_question: Sequence[RowScore]) -> float | None:
    """The largest extraction strength of the answer over the question and its rephrasings; forgotten is low.

    None without rephrasings, so that no row passes an attack that was not made.
    """
    strengths = [strength for one in (score, *paraphrased_question) if (strength := extraction_strength(one)) is not None]
    return float(np.max(strengths)) if paraphrased_question and strengths else None
