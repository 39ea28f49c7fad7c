"""Metrics: pure functions of one row's results.

x is the prompt, y the answer of T tokens, p_t = p(y_t | x, y_<t). `None` means that the row has nothing to measure (an empty answer, or one
that is only an end token where the end token does not count); NaN means that the model gave NaN. Neither may pass for a forgotten row.
"""

import zlib as compression
from collections.abc import Callable, Sequence

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from peft_unlearn.model.scoring import RowScore

Metric = Callable[[RowScore], float | None]

LOWEST = 0.4  # the share of tokens that Min-K keeps; MUSE and OpenUnlearning take 40 %
SMALLEST = 1e-3  # a deviation counts for no less: a uniform distribution has none

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


def min_k(score: RowScore, share: float = LOWEST) -> float | None:
    """Mean of the lowest int(share * T) log p_t (at least one), end token out: a text that was seen has no very unlikely token.

    Higher means more like a member of the training set. Source: Shi et al., arXiv 2310.16789.
    """
    return _lowest(score.logps[: score.logps.size - score.end], share)


def min_k_pp(score: RowScore, share: float = LOWEST) -> float | None:
    """Min-K of (log p_t - mu_t) / sigma_t, mu and sigma the mean and deviation of log p(v | x, y_<t) over v ~ p, sigma at least 1e-3.

    Higher means more like a member of the training set. Source: Zhang et al., arXiv 2404.02936.
    """
    z = (score.logps - score.means) / np.maximum(score.deviations, SMALLEST)
    return _lowest(z[: z.size - score.end], share)


def zlib(score: RowScore, text: str) -> float | None:
    """Loss in nats a token / bytes of zlib(text), end token in the loss: what of a text's likelihood is not its being repetitive.

    `text` is what the T tokens say; an empty one has nothing to measure. Lower means more like a member of the training set.
    Source: Carlini et al., arXiv 2012.07805; per token as in OpenUnlearning.
    """
    mean = loss(score)
    return mean / len(compression.compress(text.encode())) if mean is not None and text else None


def worst_of_k(score: RowScore, paraphrased: Sequence[RowScore]) -> float | None:
    """Highest extraction strength of the answer over the row's own question and its paraphrases: what forgetting one wording leaves.

    None without paraphrases, so that no row passes an attack that was not made.
    """
    strengths = [strength for one in (score, *paraphrased) if (strength := extraction_strength(one)) is not None]
    return float(np.max(strengths)) if paraphrased and strengths else None


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
    "min_k": min_k,
    "min_k_pp": min_k_pp,
}


def _lowest(values: np.ndarray, share: float) -> float | None:
    """Mean of the lowest share of `values`; NaN if any of them is, which a sort would put last and leave out."""
    if not values.size:
        return None
    lowest = np.sort(values)[: max(1, int(share * values.size))]
    return float("nan") if np.isnan(values).any() else float(lowest.mean())


def _answer(score: RowScore) -> np.ndarray | None:
    """1 and 0 for right and wrong tokens, end token out; NaN where the model gave NaN: a broken model must not read as a forgetful one."""
    size = score.correct.size - score.end
    return np.where(np.isnan(score.logps), np.nan, score.correct)[:size] if size else None
