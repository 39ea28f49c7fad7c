"""What comes out word for word when one asks often enough."""

from collections.abc import Sequence

from peft_unlearn.metrics.best_of import best_of
from peft_unlearn.util.registry import metric


@metric(needs="samples", direction="never_seen", family=True, paper=("2012.07805", "2107.03374"))
def sampled_verbatim(recited: Sequence[float | None], k: int) -> float | None:
    """Expected largest share of the answer that one of k sampled answers has in one piece; forgotten is as low as the never-seen model.

    `best_of` of `verbatim` of each answer. None where the reference has no words.
    """
    return best_of(recited, k)
