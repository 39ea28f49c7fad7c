"""TOFU's truth ratio: how much likelier wrong answers are than the right one in words that were never trained on.

0 where the model knows the answer, about 1 where it cannot tell. It works on log p, so that a burnt-out model's probabilities do not underflow.
docs/reference/openunlearning-metrics.md says what OpenUnlearning's code does instead.
"""

from collections.abc import Sequence

import numpy as np

from peft_unlearn.model.scoring import RowScore
from peft_unlearn.util.registry import metric


@metric(needs="scores", direction="never_seen", paper="2401.06121")
def truth_ratio(perturbed_answer: Sequence[RowScore], right_answer: RowScore) -> float | None:
    """Wrong answers' probability over the right one's; near or above 1 means that the truth is not preferred.

    R = mean over wrong answers of p(wrong|x)^(1/T) / p(right|x)^(1/T), end token in, `right_answer` the paraphrased answer, or the answer itself
    where there is no paraphrase. None without wrong answers, or with an answer of no tokens; inf where the right answer alone is impossible.
    Source: TOFU (arXiv 2401.06121), section 2.2.2.
    """
    if not perturbed_answer or not all(one.logps.size for one in (*perturbed_answer, right_answer)):
        return None
    wrong = np.array([one.logps.mean() for one in perturbed_answer])
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.exp(wrong - right_answer.logps.mean()).mean())
