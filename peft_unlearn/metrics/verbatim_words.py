"""Verbatim in words: a run of three words is a phrase, one of thirty is a quotation, whatever the answer's length."""

from peft_unlearn.metrics.longest_run import longest_run
from peft_unlearn.metrics.words import words
from peft_unlearn.util.registry import metric


@metric(needs="text", direction="lower", paper="2012.07805")
def verbatim_words(reference: str, answer: str) -> int | None:
    """Number of words that the answer and the model's own answer have in common in one piece; forgotten is low.

    Length of the longest common run of words. None where the reference has no words.
    """
    right = words(reference)
    return longest_run(right, words(answer)) if right else None
