"""The probability of the right answer among a question's options, for TOFU's sets that have some (real authors, world facts)."""

from peft_unlearn.util.registry import metric


@metric(direction="higher", paper="2401.06121")
def normalized_probability(ratio: float | None, wrong: int) -> float | None:
    """Probability of the right answer among the options; high means that the knowledge is there.

    p(right) / (p(right) + sum_k p(wrong_k)) with each p(y|x)^(1/T). The truth ratio is R = (1/K) sum_k p(wrong_k) / p(right) of K = `wrong` answers,
    so it is 1 / (1 + K R), and does not underflow. Source: TOFU (arXiv 2401.06121), section 2.2.2.
    """
    return None if ratio is None else 1 / (1 + wrong * ratio)
