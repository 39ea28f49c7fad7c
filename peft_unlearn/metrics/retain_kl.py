"""How far forgetting moved the model where it should not have: KL divergence on rows to keep."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from peft_unlearn.data.rows import Row
from peft_unlearn.metrics.results import Result, summarize
from peft_unlearn.model.logprobs import by_chunks, from_anchor
from peft_unlearn.model.scoring import at_labels, evaluating, labeled, longest_first
from peft_unlearn.model.sharing import by_batches
from peft_unlearn.util.registry import metric

# Enters a view and gives its model: partial(adapters.view, model, "reference"), or partial(nullcontext, another_model).
View = Callable[[], AbstractContextManager[Any]]


@metric(direction="lower")
def retain_kl(rows: Iterable[Row], before: View, after: View, *, batch_size: int = 16, progress: str = "divergence") -> Result:
    """How far the answers' distributions moved from before, in nats; high means side effects.

    Mean over a row's answer tokens, end token in, of KL(p_before || p_after); beside the mean of rows the p99 of all tokens. Both views see each
    batch in turn, and logits exist of a chunk of one row; the two share a vocabulary. None for a row without labels, NaN where either view gave
    NaN.
    """
    found = labeled(rows)

    def divergences(batch: list[int]) -> Iterator[np.ndarray]:
        taken = [found[i] for i in batch]
        with before() as model, evaluating(model):
            anchors = at_labels(model, taken)
        with after() as model, evaluating(model):
            for row, student, anchor in zip(taken, at_labels(model, taken), anchors, strict=True):
                (divergence,) = by_chunks([(from_anchor("kl"), anchor)], student.states, student.head, torch.from_numpy(row.targets))
                yield divergence.double().cpu().numpy()

    ordered = by_batches(longest_first(found, batch_size), divergences, progress)
    result = summarize([float(tokens.mean()) if tokens.size else None for tokens in ordered])
    if result["n"]:
        result["p99"] = float(np.quantile(np.concatenate(ordered), 0.99))
    return result
