"""The logit lens: whether inner layers still know an answer that the last one no longer gives.

Inner hidden states are read as the last one is, by the final norm and the head. Source: nostalgebraist, interpreting GPT: the logit lens,
2020; as a test of forgetting, Patil et al., arXiv 2309.17410.
"""

from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.rows import Row, end_length, special_ids
from peft_unlearn.metrics.results import Result, not_computed, summarize
from peft_unlearn.model.lm_head import Readout
from peft_unlearn.model.readout import find_readout
from peft_unlearn.model.scoring import evaluating, labeled, longest_first, padded
from peft_unlearn.model.sharing import by_batches
from peft_unlearn.util.registry import metric

TOP = 10


@metric(needs="layers", direction="never_seen", paper="2309.17410")
def logit_lens(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    *,
    batch_size: int = 16,
    progress: str = "logit lens",
) -> Result:
    """Best recall of the answer's tokens by an inner layer; high means that the knowledge is still inside.

    Recall is that of the answer's tokens, end token out, among the 10 likeliest of a layer. `layers` are the means of layers 1 to L - 1 over the
    rows. A row's own value is its highest over those layers: an attacker takes the best, and the never-seen model shows what the best of so many
    gives by chance. The last layer, L, is left out, since extraction strength and exact memorization say what the model says; so are the
    embeddings, which saw no context. The mean is NaN, with a reason, where the model has no inner layer, or no norm and head that can be found.
    """
    rows = list(rows)
    causal = cast(PreTrainedModel, model.get_base_model()) if isinstance(model, PeftModel) else model
    readout = find_readout(causal)
    if readout is None:
        return not_computed("no final norm and head were found that read the inner layers of this model", len(rows))
    recalls = layer_recalls(causal, tokenizer, rows, readout, batch_size=batch_size, progress=progress)
    measured = [layers for layers in recalls if layers is not None]
    if measured and not measured[0]:
        return not_computed("the model has one layer, and no inner one", len(rows))
    result = summarize([None if layers is None else float(np.max(layers)) for layers in recalls])
    if measured:
        result["layers"] = np.mean(measured, axis=0).tolist()
    return result


def layer_recalls(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    readout: Readout,
    *,
    batch_size: int = 16,
    progress: str = "logit lens",
) -> list[list[float] | None]:
    """Recall in the top 10 of layers 1 to L - 1 for each row, in order; None for a row without an answer, NaN where a layer gave NaN.

    A token that ties with the tenth counts as found. One row of one layer is projected at a time, at its label positions alone.
    """
    found, special = labeled(rows), special_ids(tokenizer)

    def recalls(batch: list[int]) -> Iterator[list[float] | None]:
        taken = [found[i] for i in batch]
        states = model(**padded(model, taken), output_hidden_states=True, logits_to_keep=1, use_cache=False).hidden_states
        for place, row in enumerate(taken):
            size = row.targets.size - end_length(tokenizer, special, row.targets.tolist())
            positions, targets = (torch.from_numpy(part[:size]).long() for part in (row.positions, row.targets))
            inner = (layer[place, positions.to(layer.device)] for layer in states[1:-1])
            yield [_recall(readout(layer), targets) for layer in inner] if size else None

    with evaluating(model):
        return by_batches(longest_first(found, batch_size), recalls, progress)


def _recall(logits: Tensor, targets: Tensor) -> float:
    """Share of targets with fewer than 10 tokens above them: (T, V), (T,)."""
    own = logits.gather(-1, targets.to(logits.device).unsqueeze(-1))
    hits = ((logits > own).sum(-1) < TOP).double()
    return float(hits.masked_fill(logits.isnan().any(-1), float("nan")).mean())
