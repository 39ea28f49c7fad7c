"""Exact memorization: how many tokens of an answer the model would write."""

from peft_unlearn.metrics.correct import correct_tokens
from peft_unlearn.model.scoring import RowScore
from peft_unlearn.util.registry import metric


@metric(needs="scores", direction="lower", paper="2205.10770", order=3)
def exact_memorization(score: RowScore) -> float | None:
    """Share of the answer's tokens that are the model's first choice; forgotten is low.

    Share of t with argmax p(. | x, y_<t) = y_t, end token out. Source: Tirumala et al., arXiv 2205.10770.
    """
    correct = correct_tokens(score)
    return None if correct is None else float(correct.mean())
