"""Verbatim: how much of the right answer stands in the model's own answer in one piece."""

from peft_unlearn.metrics.verbatim_words import verbatim_words
from peft_unlearn.metrics.words import words
from peft_unlearn.util.registry import metric


@metric(needs="text", direction="lower", paper="2012.07805")
def verbatim(reference: str, answer: str) -> float | None:
    """Share of the answer's words that the model's own answer has in one piece; forgotten is low.

    Longest common run of words / words of the reference; word order and gaps count, where ROUGE-L passes over gaps. None where the reference has
    no words. After Carlini et al., arXiv 2012.07805, who call a text memorized where it comes out word for word.
    """
    length = verbatim_words(reference, answer)
    return None if length is None else length / len(words(reference))
