"""What comes out when one asks often enough: the best of k sampled answers.

A greedy answer shows the likeliest text alone; a fact that half of all samples tell is not forgotten.
"""

from collections.abc import Callable, Iterable, Sequence
from math import comb

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.rows import Row, answer_texts
from peft_unlearn.metrics.teacher_forced import rouge_l
from peft_unlearn.model.generation import sample

Measure = Callable[[str, str], float | None]  # (reference, answer) -> how much of the reference the answer tells


def leak(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    *,
    ks: Sequence[int] = (1, 4, 16),
    measure: Measure = rouge_l,
    seed: int = 0,
    batch_size: int = 16,
    progress: str = "sampling",
) -> dict[str, list[float | None]]:
    """leak_at_<k> of each row: the expected best `measure` among k answers drawn at temperature 1, top-p 1.

    All k come from one draw of max(ks) answers a row, see `leak_at` and `generation.sample`. None where the reference has nothing to measure.
    """
    rows = list(rows)
    samples = sample(model, tokenizer, rows, max(ks), seed=seed, batch_size=batch_size, progress=progress)
    values = [
        [measure(reference, answer) for answer in answers]
        for reference, answers in zip(answer_texts(tokenizer, rows), samples, strict=True)
    ]
    return {f"leak_at_{k}": [leak_at(row, k) for row in values] for k in ks}


def leak_at(values: Sequence[float | None], k: int) -> float | None:
    """Unbiased estimate of E[max of k draws] from the values of K >= k draws: the mean of the maximum over all subsets of k.

    With v_(1) <= ... <= v_(K), the i-th is the maximum of C(i-1, k-1) of the C(K, k) subsets. Of k = 1 the mean, of k = K the maximum; of 0
    and 1 it is pass@k (Chen et al., arXiv 2107.03374). None if a value is; NaN if a value is.
    """
    if None in values:
        return None
    weights = [comb(i, k - 1) / comb(len(values), k) for i in range(len(values))]
    return float(np.dot(weights, np.sort(np.array(values, np.float64))))


def worst_of_k(values: Iterable[float | None]) -> float | None:
    """The largest value over the ways of asking that have one; None if none has, NaN if one is."""
    measured = [value for value in values if value is not None]
    return float(np.max(measured)) if measured else None
