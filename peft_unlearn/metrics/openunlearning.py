"""The metrics as the code of OpenUnlearning computes them (arXiv 2506.12618; locuslab/open-unlearning, March 2026), for numbers that stand
beside its tables.

Pure functions of the same row scores as `metrics`, which define each quantity as its source does. Where the two differ, and why ours is
another, stands in docs/reference/openunlearning-metrics.md; AUCs, forget quality and model utility are the same there and here. The last label
of a row counts as its end token here, whichever token it is.
"""

import zlib as zlib_
from collections.abc import Callable, Sequence

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from peft_unlearn.model.scoring import RowScore

MAX_NEW_TOKENS = 200  # of an answer that ROUGE reads
SHARE = 0.4  # of the tokens that Min-K reads
EPSILON = 1e-10
LEAST_VARIANCE = 1e-6

_rouge = RougeScorer(["rougeL"], use_stemmer=True)


def loss(score: RowScore) -> float | None:
    """-(1/L) sum_t log p_t over the L labels, the last included."""
    return float(-score.logps.mean()) if score.logps.size else None


def probability(score: RowScore) -> float | None:
    """exp(-loss)."""
    return float(np.exp(score.logps.mean())) if score.logps.size else None


def exact_memorization(score: RowScore) -> float | None:
    """Share of right argmax predictions, the last label left out."""
    right = _right(score)
    return float(right.mean()) if right.size else None


def extraction_strength(score: RowScore) -> float | None:
    """1 - k/L, k the first position from which every prediction is right, but at most L - 1: without a match 1/L; of no tokens 0."""
    right = _right(score)
    if not right.size:
        return 0.0
    if np.isnan(right).any():
        return float("nan")
    wrong = np.flatnonzero(right == 0)
    k = min(wrong[-1] + 1 if wrong.size else 0, right.size - 1)
    return float(1 - k / right.size)


def min_k(score: RowScore) -> float | None:
    """Minus the mean of the int(.4 L) lowest log-probabilities, at least one, the last label left out; of no tokens 0. Low for a member."""
    return _lowest(score.logps[:-1])


def min_k_pp(score: RowScore) -> float | None:
    """The same of (log p_t - mu_t) / sigma_t, mu and sigma of log p(v) under v ~ p, sigma^2 at least 1e-6."""
    deviations = np.sqrt(np.maximum(np.square(score.deviations), LEAST_VARIANCE))
    return _lowest(((score.logps - score.means) / deviations)[:-1])


def zlib(score: RowScore, answer: str) -> float | None:
    """loss / bytes of the answer's text compressed with zlib."""
    value = loss(score)
    return None if value is None else value / len(zlib_.compress(answer.encode("utf-8")))


def rouge_l(reference: str, answer: str, measure: str = "recall") -> float:
    """ROUGE-L with Porter stemming: "recall" for TOFU, "fmeasure" for MUSE; 0 where the reference has no word of a-z and 0-9."""
    found = _rouge.score(reference, answer)["rougeL"]
    return float({"recall": found.recall, "fmeasure": found.fmeasure}[measure])


def normalized_probability(right: RowScore, wrong: Sequence[RowScore]) -> float | None:
    """p / (p + sum of the wrong answers' p + 1e-10), each p = `probability`."""
    p, others = probability(right), [probability(score) for score in wrong]
    known = [other for other in others if other is not None]
    return None if p is None or len(known) < len(others) or not others else p / (p + sum(known) + EPSILON)


def truth_ratio(perturbed: Sequence[RowScore], right: RowScore) -> float | None:
    """w / (c + 1e-10): w = exp(-mean over the perturbed answers of their loss), so a geometric mean; c = `probability` of the right answer."""
    losses, c = [loss(score) for score in perturbed], probability(right)
    known = [value for value in losses if value is not None]
    return None if c is None or len(known) < len(losses) or not losses else float(np.exp(-np.mean(known)) / (c + EPSILON))


def closer_to_1_better(ratio: float | None) -> float | None:
    """A forget row's share of the aggregate: min(ratio, 1 / (ratio + 1e-10))."""
    return None if ratio is None else float(np.minimum(ratio, 1 / (ratio + EPSILON)))


def true_better(ratio: float | None) -> float | None:
    """Another row's share of the aggregate: max(0, 1 - ratio)."""
    return None if ratio is None else float(np.maximum(0.0, 1 - ratio))


def priv_leak(auc: float, never_seen: float = 0.5) -> float:
    """((1 - AUC) - (1 - AUC_r)) / (1 - AUC_r + 1e-10) * 100 on the AUC of `min_k`; .5 stands in for a retrained model that is not there."""
    return ((1 - auc) - (1 - never_seen)) / (1 - never_seen + EPSILON) * 100


SCORES: dict[str, Callable[[RowScore], float | None]] = {
    "loss": loss,
    "probability": probability,
    "extraction_strength": extraction_strength,
    "exact_memorization": exact_memorization,
    "min_k": min_k,
    "min_k_pp": min_k_pp,
}


def _right(score: RowScore) -> np.ndarray:
    """1 and 0 for right and wrong predictions, the last label left out; NaN where the model gave NaN."""
    return np.where(np.isnan(score.logps), np.nan, score.correct)[:-1]


def _lowest(values: np.ndarray) -> float:
    if np.isnan(values).any():
        return float("nan")
    return float(-np.sort(values)[: max(1, int(values.size * SHARE))].mean()) if values.size else 0.0
