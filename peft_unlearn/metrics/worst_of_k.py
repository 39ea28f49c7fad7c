"""Worst of k: what forgetting one wording of a question leaves."""

from collections.abc import Sequence

import numpy as np

from peft_unlearn.metrics.extraction_strength import extraction_strength
from peft_unlearn.model.scoring import RowScore
from peft_unlearn.util.registry import metric


@metric(needs="scores", direction="lower")
def worst_of_k(score: RowScore, reworded: Sequence[RowScore]) -> float | None:
    """The largest extraction strength of the answer over the question and its other wordings; forgotten is low.

    None without other wordings, so that no row passes an attack that was not made.
    """
    strengths = [strength for one in (score, *reworded) if (strength := extraction_strength(one)) is not None]
    return float(np.max(strengths)) if reworded and strengths else None
