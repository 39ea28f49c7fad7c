"""ROUGE-L: how much of the answer the model's own answer says."""

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from peft_unlearn.util.registry import metric

_words = DefaultTokenizer(use_stemmer=True)
_rouge = RougeScorer(["rougeL"], tokenizer=_words)


@metric(needs="text", direction="lower", paper="2401.06121")
def rouge_l(reference: str, answer: str) -> float | None:
    """Share of the answer's words that the model's own answer has in the same order; for reading only.

    ROUGE-L recall with Porter stemming: LCS(reference, answer) / number of words in the reference. Words are runs of a-z and 0-9 (rouge-score), so
    a reference in another script has none and gives None. Source: Lin 2004; TOFU.
    """
    return float(_rouge.score(reference, answer)["rougeL"].recall) if _words.tokenize(reference) else None


def rouge_l_f1(reference: str, answer: str) -> float | None:
    """ROUGE-L F1, the harmonic mean of LCS / words of the reference and LCS / words of the answer."""
    recall, precision = rouge_l(reference, answer), rouge_l(answer, reference)
    if recall is None:
        return None
    return 2 * precision * recall / (precision + recall) if precision else 0.0
