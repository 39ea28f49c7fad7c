"""Entropy: how unsure a model is of the tokens of an answer, whatever the right ones are."""

from peft_unlearn.model.scoring import RowScore
from peft_unlearn.util.registry import metric


@metric(needs="scores", direction="never_seen", order=7)
def entropy(score: RowScore) -> float | None:
    """Mean entropy of the predictions at the answer's tokens, in nats; far above the never-seen model the predictions are flat.

    -(1/T) sum_t sum_v p(v) log p(v), end token in; log of the vocabulary where all tokens are as likely.
    """
    return float(-score.means.mean()) if score.means.size else None
