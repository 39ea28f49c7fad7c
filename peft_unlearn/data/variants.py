"""Rows to evaluate, and other wordings of them: the same question asked differently, the right answer in other words, wrong answers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from peft_unlearn import data
from peft_unlearn.data import formats
from peft_unlearn.data.rows import Row
from peft_unlearn.util.errors import UserError

# Kind of variant -> the side of the row that it replaces: 0 the question, 1 the answer.
KINDS = {"paraphrased_question": 0, "paraphrased_answer": 1, "perturbed_answer": 1}


class Probe(NamedTuple):
    """Tokenized rows, and for each kind of variant that the set has a list for each row, possibly empty."""

    rows: Dataset
    variants: dict[str, list[list[Row]]]


def probe(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    name: str,
    template_arguments: Mapping[str, Any] | None = None,
) -> Probe:
    """Tokenize a set and the variants that stand in its columns beside the rows.

    | format | paraphrased question | paraphrased answer | wrong answers |
    | --- | --- | --- | --- |
    | question, answer | paraphrased_question | paraphrased_answer | perturbed_answer |
    | prompt, completion (text) | paraphrased_prompt | paraphrased_completion | perturbed_completion |

    Each value is a text, a list of texts, or null for none. Kinds are named by the first line of the table whatever the format. The other
    formats have no variants. Arguments are those of `data.tokenize`.

    Raises:
        UserError: what `data.tokenize` refuses, of the rows or of a variant; a value of another kind, with its column and row.
    """

    def tokens(texts: Dataset, of: str) -> Dataset:
        return data.tokenize(texts, tokenizer, max_length, name=of, template_arguments=template_arguments).rows

    rows = tokens(dataset, name)
    sides = formats.columns(dataset, name)
    variants: dict[str, list[list[Row]]] = {}
    for kind, side in KINDS.items() if sides in (("question", "answer"), ("prompt", "completion")) else ():
        column = f"{kind.split('_')[0]}_{sides[side]}"
        if column not in dataset.column_names:
            continue
        own = list(formats.rows(dataset, (*sides, column)))
        texts = [_texts(row, column, f"{name}: row {number}") for number, row in enumerate(own, start=1)]
        variants[kind] = [[] for _ in own]
        for turn in range(max(map(len, texts))):
            # A row without a variant of this turn stands for itself, so that messages name the rows as the user counts them.
            reworded = [
                {key: row[key] for key in sides} | ({sides[side]: found[turn]} if turn < len(found) else {})
                for row, found in zip(own, texts, strict=True)
            ]
            for group, found, row in zip(variants[kind], texts, tokens(Dataset.from_list(reworded), f"{name}.{column}"), strict=True):
                if turn < len(found):
                    group.append(row)
    return Probe(rows, variants)


def _texts(row: Mapping[str, Any], column: str, where: str) -> list[str]:
    """The variants of one row, as a list.

    Raises:
        UserError: neither text, nor a list of texts, nor null; an empty text; beside a conversation.
    """
    value = row[column]
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: {column} is neither text nor a list of texts, write one of them, or null for none.")
    if not all(text.strip() for text in texts):
        raise UserError(f"{where}: {column} holds an empty text, write one or take it out.")
    if texts and not all(isinstance(side, str) for key, side in row.items() if key != column):
        raise UserError(f"{where}: {column} stands beside lists of messages, write prompt and completion as text.")
    return texts
