"""Metrics: pure functions of one row's results.

x is the prompt, y the answer of T tokens, p_t = p(y_t | x, y_<t). `None` means that the row has nothing to measure (an empty answer, or one
that is only an end token where the end token does not count); NaN means that the model gave NaN. Neither may pass for a forgotten row.
"""

from collections.abc import Callable

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from peft_unlearn.evaluation.scoring import RowScore

Metric = Callable[[RowScore], float | None]

_words = DefaultTokenizer(use_stemmer=True)
_rouge = RougeScorer(["rougeL"], tokenizer=_words)


def loss(score: RowScore) -> float | None:
    """-(1/T) sum_t log p_t in nats, end token in: the cross-entropy that fine-tuning minimises."""
    return float(-score.logps.mean()) if score.logps.size else None


def probability(score: RowScore) -> float | None:
    """exp((1/T) sum_t log p_t) = p(y|x)^(1/T), end token in. Source: TOFU (arXiv 2401.06121)."""
    return float(np.exp(score.logps.mean())) if score.logps.size else None


def extraction_strength(score: RowScore) -> float | None:
    """1 - k/T, k the length of the shortest prefix of y from which teacher-forced greedy decoding gives the rest; end token out.

    0 where no prefix does. Source: Carlini et al., arXiv 2012.07805, and OpenUnlearning (arXiv 2506.12618), whose code gives 1/T there.
    """
    correct = _answer(score)
    if correct is None:
        return None
    wrong = np.flatnonzero(correct != 1)
    k = wrong[-1] + 1 if wrong.size else 0
    return float(1 - k / correct.size) if np.isfinite(correct).all() else float("nan")


def exact_memorisation(score: RowScore) -> float | None:
    """Share of t with argmax p(. | x, y_<t) = y_t, end token out. Source: Tirumala et al., arXiv 2205.10770."""
    correct = _answer(score)
    return None if correct is None else float(correct.mean())


def rouge_l(reference: str, answer: str) -> float | None:
    """ROUGE-L recall with Porter stemming: LCS(reference, answer) / number of words in the reference.

    Words are runs of a-z and 0-9 (rouge-score), so a reference in another script has none and gives None. Source: Lin 2004; TOFU.
    """
    return float(_rouge.score(reference, answer)["rougeL"].recall) if _words.tokenize(reference) else None


TEACHER_FORCED: dict[str, Metric] = {
    "loss": loss,
    "probability": probability,
    "extraction_strength": extraction_strength,
    "exact_memorisation": exact_memorisation,
}


def _answer(score: RowScore) -> np.ndarray | None:
    """1 and 0 for right and wrong tokens, end token out; NaN where the model gave NaN: a broken model must not read as a forgetful one."""
    size = score.correct.size - score.end
    return np.where(np.isnan(score.logps), np.nan, score.correct)[:size] if size else None
