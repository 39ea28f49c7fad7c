"""Does the model still recite a document, and does it still answer questions about it: the two memorisation measures of MUSE
(Shi et al., arXiv 2407.06460).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.rows import Row, answer_texts, special_ids, split
from peft_unlearn.data.tokenizing import tokenize
from peft_unlearn.metrics.teacher_forced import rouge_l
from peft_unlearn.model.generation import context_length, generate

Measure = Callable[[str, str], float | None]  # (reference, answer) -> their likeness

# MUSE's own lengths, in tokens.
PREFIX = 200
VERBATIM_TOKENS = 128
ANSWER_TOKENS = 32
# Where a base model that was shown questions and answers goes on to the next question.
STOP_STRINGS = ("\n\n", "\nQuestion", "Question:")


class Told(NamedTuple):
    """Per row, in order: the likeness of what the model told to the reference (None: a reference without words), and what it told."""

    values: list[float | None]
    answers: list[str]


def rouge_l_f1(reference: str, answer: str) -> float | None:
    """ROUGE-L F1 with Porter stemming: the harmonic mean of LCS / words of the reference and LCS / words of the answer."""
    recall, precision = rouge_l(reference, answer), rouge_l(answer, reference)
    if recall is None:
        return None
    return 2 * precision * recall / (precision + recall) if precision else 0.0


def verbmem(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    *,
    prefix: int = PREFIX,
    max_new_tokens: int = VERBATIM_TOKENS,
    measure: Measure = rouge_l_f1,
    batch_size: int = 16,
    progress: str = "reciting",
) -> Told:
    """VerbMem: how like the greedy continuation of a document's beginning is to what follows there.

    A row with a prompt (MUSE's prompt and gt as prompt and completion) continues that; plain text continues its first `prefix` tokens, or its
    first half where that is shorter. The reference is the next `max_new_tokens` tokens, and so much is generated.
    """
    special = special_ids(tokenizer)
    pairs = [_beginning(row, special, prefix) for row in rows]
    recited = [
        {"input_ids": start + rest[:max_new_tokens], "labels": [IGNORE] * len(start) + rest[:max_new_tokens]} for start, rest in pairs
    ]
    answers = generate(model, tokenizer, recited, batch_size=batch_size, max_new_tokens=max_new_tokens, progress=progress)
    return _compare(answer_texts(tokenizer, recited), answers, measure)


def knowmem(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Mapping[str, str]],
    *,
    examples: Iterable[Mapping[str, str]] = (),
    max_new_tokens: int = ANSWER_TOKENS,
    stop_strings: Sequence[str] = STOP_STRINGS,
    measure: Measure = rouge_l_f1,
    batch_size: int = 16,
    progress: str = "answering",
) -> Told:
    """KnowMem: how like the greedy short answers to the questions of `rows` are to the right ones.

    Rows and `examples` (MUSE's icl rows, shown before every question) are {"question", "answer"}, written without a chat template as
    "Question: ...\\nAnswer: ..." with an empty line between them. The prompt ends in "Answer:", where MUSE's has a space more: tokenizers that
    glue the space to the next word never saw that space alone. MUSE's measure is ROUGE-L F1; TOFU's would be `rouge_l`.

    Raises:
        UserError: a row without text, or one that the context does not hold.
    """
    shots = "".join(f"Question: {example['question']}\nAnswer: {example['answer']}\n\n" for example in examples)
    asked = [
        {"prompt": f"{shots}Question: {row['question']}\nAnswer:", "completion": f" {row['answer']}".rstrip(), "answer": row["answer"]}
        for row in rows
    ]
    if not asked:
        return Told([], [])
    tokens = tokenize(Dataset.from_list(asked), tokenizer, context_length(model), name="knowmem").rows
    answers = generate(
        model, tokenizer, tokens, batch_size=batch_size, max_new_tokens=max_new_tokens, stop_strings=stop_strings, progress=progress
    )
    return _compare([row["answer"] for row in asked], answers, measure)


def _beginning(row: Row, special: set[int], prefix: int) -> tuple[list[int], list[int]]:
    """A row's prompt and answer; of plain text its first `prefix` tokens, at most half of them, and the rest.

    A single token is no prompt: without a special token before it, a text's first one has no label, for nothing predicts it.
    """
    tokens = list(row["input_ids"])
    unlabelled = takewhile(lambda pair: pair[1] == IGNORE, zip(tokens, row["labels"], strict=True))
    if sum(token not in special for token, _ in unlabelled) > 1:
        return split(row, special)
    start = min(prefix, (len(tokens) + 1) // 2)
    return tokens[:start], tokens[start:]


def _compare(references: Sequence[str], answers: list[str], measure: Measure) -> Told:
    return Told([measure(reference, answer) for reference, answer in zip(references, answers, strict=True)], answers)
