"""TOFU's truth ratio: how much likelier wrong answers are than the right one in words that were never trained on.

Per row R = mean over wrong answers of p(wrong|x)^(1/T) / p(right|x)^(1/T), end token in; 0 where the model knows the answer, about 1 where
it cannot tell. Everything here is a pure function, and works on log p, so that a burnt-out model's probabilities do not underflow. Source:
TOFU (arXiv 2401.06121), section 2.2.2; docs/openunlearning.md says what the peer's code does instead.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax
from scipy.stats import ks_2samp

from peft_unlearn.model.scoring import RowScore


def truth_ratio(perturbed: Sequence[RowScore], right: RowScore) -> float | None:
    """R of one row: `perturbed` its wrong answers, `right` the paraphrased answer, or the answer itself where there is no paraphrase.

    None without wrong answers, or with an answer of no tokens; inf where the right answer alone is impossible.
    """
    if not perturbed or not all(one.logps.size for one in (*perturbed, right)):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.exp(_mean_logps(perturbed) - right.logps.mean()).mean())


def normalised_probability(right: RowScore, wrong: Sequence[RowScore]) -> float | None:
    """p(right) / (p(right) + sum of p(wrong)), each p(y|x)^(1/T): the probability of sets with options (real authors, world facts)."""
    if not wrong or not all(one.logps.size for one in (right, *wrong)):
        return None
    with np.errstate(invalid="ignore"):
        return float(softmax(_mean_logps([right, *wrong]))[0])


def near_one(ratios: Sequence[float | None]) -> float:
    """Mean of min(R, 1/R), for a forget set: 1 where right and wrong answers cannot be told apart."""
    measured = _measured(ratios)
    with np.errstate(divide="ignore", over="ignore"):
        return float(np.minimum(measured, 1 / measured).mean()) if measured.size else float("nan")


def below_one(ratios: Sequence[float | None]) -> float:
    """Mean of max(0, 1 - R), for every other set: 1 where wrong answers are impossible beside the right one."""
    measured = _measured(ratios)
    return float(np.maximum(0, 1 - measured).mean()) if measured.size else float("nan")


def forget_quality(ratios: Sequence[float | None], never_seen: Sequence[float | None]) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test between the truth ratios of a model and of one that never saw the forget set.

    Near 0 they differ, in whichever direction; a high value is no proof, above all of few rows. NaN without rows on both sides, or with a
    NaN among them.
    """
    samples = _measured(ratios), _measured(never_seen)
    if any(not sample.size or np.isnan(sample).any() for sample in samples):
        return float("nan")
    return float(ks_2samp(*samples).pvalue)


def model_utility(values: Sequence[float]) -> float:
    """Harmonic mean of the nine {probability, ROUGE-L, truth ratio} x {retain, real authors, world facts}; 0 if any of them is 0."""
    with np.errstate(divide="ignore", over="ignore"):
        return float(len(values) / np.sum(1 / np.asarray(values, np.float64)))


def _mean_logps(scores: Sequence[RowScore]) -> np.ndarray:
    """(1/T) log p(y|x) of each."""
    return np.array([one.logps.mean() for one in scores])


def _measured(ratios: Sequence[float | None]) -> np.ndarray:
    return np.array([ratio for ratio in ratios if ratio is not None], np.float64)
