"""What comes out when one asks often enough: the best of k sampled answers.

A greedy answer shows the likeliest text alone; a fact that half of all samples tell is not forgotten.
"""

from collections.abc import Iterable, Sequence
from math import comb

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.rows import Row, answer_texts
from peft_unlearn.metrics.rouge_l import rouge_l
from peft_unlearn.model.generation import sample
from peft_unlearn.util.registry import metric


def told(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    count: int,
    *,
    seed: int = 0,
    batch_size: int = 16,
    progress: str = "sampling",
) -> list[list[float | None]]:
    """ROUGE-L recall of each of `count` answers to each row, drawn at temperature 1, top-p 1, as `generation.sample` draws them.

    None where the reference has nothing to measure.
    """
    rows = list(rows)
    samples = sample(model, tokenizer, rows, count, seed=seed, batch_size=batch_size, progress=progress)
    return [
        [rouge_l(reference, answer) for answer in answers]
        for reference, answers in zip(answer_texts(tokenizer, rows), samples, strict=True)
    ]


@metric(needs="samples", direction="never_seen", family=True, paper="2107.03374")
def leak_at(told: Sequence[float | None], k: int) -> float | None:
    """Expected largest overlap of k sampled answers with the right one; forgotten is as low as the never-seen model.

    Unbiased estimate of E[max of k draws] from the values of K >= k draws: the mean of the maximum over all subsets of k. With
    v_(1) <= ... <= v_(K), the i-th is the maximum of C(i-1, k-1) of the C(K, k) subsets. Of k = 1 the mean, of k = K the maximum; of 0 and 1 it is
    pass@k (Chen et al., arXiv 2107.03374). None if a value is; NaN if a value is.
    """
    if None in told:
        return None
    weights = [comb(i, k - 1) / comb(len(told), k) for i in range(len(told))]
    return float(np.dot(weights, np.sort(np.array(told, np.float64))))
