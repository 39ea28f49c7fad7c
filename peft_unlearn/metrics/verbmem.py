"""Does the model still recite a document: MUSE's VerbMem (Shi et al., arXiv 2407.06460)."""

from collections.abc import Iterable
from itertools import takewhile

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.rows import Row, answer_texts, special_ids, split
from peft_unlearn.metrics.rouge_l import rouge_l_f1
from peft_unlearn.model.generation import generate
from peft_unlearn.util.registry import metric

# MUSE's own lengths, in tokens.
PREFIX = 200
CONTINUATION = 128


@metric(direction="lower", paper="2407.06460")
def verbmem(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, rows: Iterable[Row], *, batch_size: int = 16
) -> list[float | None]:
    """Overlap of the continuation of a document's beginning with what follows in it; forgotten is low.

    ROUGE-L F1 of the greedy continuation; None where what follows has no words. A row with a prompt (MUSE's prompt and gt as prompt and completion)
    continues that; plain text continues its first `PREFIX` tokens, or its first half where that is shorter. The reference is the next `CONTINUATION`
    tokens, and so much is generated.
    """
    special = special_ids(tokenizer)
    pairs = [_beginning(row, special) for row in rows]
    recited = [{"input_ids": start + rest[:CONTINUATION], "labels": [IGNORE] * len(start) + rest[:CONTINUATION]} for start, rest in pairs]
    answers = generate(model, tokenizer, recited, batch_size=batch_size, max_new_tokens=CONTINUATION, progress="reciting")
    return [rouge_l_f1(reference, answer) for reference, answer in zip(answer_texts(tokenizer, recited), answers, strict=True)]


def _beginning(row: Row, special: set[int]) -> tuple[list[int], list[int]]:
    """A row's prompt and answer; of plain text its first `PREFIX` tokens, at most half of them, and the rest.

    A single token is no prompt: without a special token before it, a text's first one has no label, for nothing predicts it.
    """
    tokens = list(row["input_ids"])
    unlabelled = takewhile(lambda pair: pair[1] == IGNORE, zip(tokens, row["labels"], strict=True))
    if sum(token not in special for token, _ in unlabelled) > 1:
        return split(row, special)
    start = min(PREFIX, (len(tokens) + 1) // 2)
    return tokens[:start], tokens[start:]
