"""ROUGE-L: how much of the answer the model's own answer says."""

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from peft_unlearn.metrics.words import words
from peft_unlearn.util.registry import metric

_english = DefaultTokenizer(use_stemmer=True)


class _Stemmed(Tokenizer):  # type: ignore[misc]  # a class of an untyped library
    """Words of any script, those of a-z stemmed as rouge-score stems them."""

    def tokenize(self, text: str) -> list[str]:
        return [stem for word in words(text) for stem in (_english.tokenize(word) if word.isascii() else [word])]


_rouge = RougeScorer(["rougeL"], tokenizer=_Stemmed())


@metric(needs="text", direction="lower", paper="2401.06121")
def rouge_l(reference: str, answer: str) -> float | None:
    """Share of the answer's words that the model's own answer has in the same order; for reading only.

    ROUGE-L recall with Porter stemming of English: LCS(reference, answer) / number of words in the reference, as `words` reads them: of Chinese,
    Japanese and Thai, characters. None for a reference without words. Of ASCII text it is rouge-score's number. Source: Lin 2004; TOFU.
    """
    return float(_rouge.score(reference, answer)["rougeL"].recall) if words(reference) else None


def rouge_l_f1(reference: str, answer: str) -> float | None:
    """ROUGE-L F1, the harmonic mean of LCS / words of the reference and LCS / words of the answer."""
    recall, precision = rouge_l(reference, answer), rouge_l(answer, reference)
    if recall is None:
        return None
    return 2 * precision * recall / (precision + recall) if precision else 0.0
