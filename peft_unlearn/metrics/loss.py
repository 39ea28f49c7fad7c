"""The loss that fine-tuning minimizes."""

from peft_unlearn.model.scoring import RowScore
from peft_unlearn.util.registry import metric


@metric(needs="scores", direction="higher", order=0)
def loss(score: RowScore) -> float | None:
    """Mean negative log-probability of the answer's tokens, in nats; forgotten is high, but not higher than the never-seen model.

    -(1/T) sum_t log p_t, end token in.
    """
    return float(-score.logps.mean()) if score.logps.size else None
