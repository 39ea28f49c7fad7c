"""What comes out when one asks often enough: the best of k sampled answers.

A greedy answer shows the likeliest text alone; a fact that half of all samples tell is not forgotten.
"""

from collections.abc import Sequence

from peft_unlearn.metrics.best_of import best_of
from peft_unlearn.util.registry import metric


@metric(needs="samples", direction="never_seen", family=True, paper="2107.03374")
def leak_at(told: Sequence[float | None], k: int) -> float | None:
    """Expected largest overlap of k sampled answers with the right one; forgotten is as low as the never-seen model.

    `best_of` of the ROUGE-L recall of each answer. None where the reference has nothing to measure.
    """
    return best_of(told, k)
