"""Answers that other sets give as well: who says them need not have learned them from the forget set."""

from collections.abc import Collection

from peft_unlearn.metrics.recites_others import LENGTH, Run, runs
from peft_unlearn.metrics.words import words
from peft_unlearn.util.registry import metric


@metric(needs="text", direction="never_seen")
def said_elsewhere(reference: str, kept: Collection[Run]) -> float | None:
    """1 where texts that are kept have all of the right answer, a run of four words for a run, else 0; of the data, not of the model.

    None where the answer has fewer words.
    """
    found = runs(words(reference), LENGTH)
    return float(all(run in kept for run in found)) if found else None
