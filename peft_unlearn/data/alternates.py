"""Answers to give in place of the forgotten ones, where no model is asked for them: a column's, or refusals."""

import random
from typing import Any

from datasets import Dataset, Features, Value

from peft_unlearn.data import formats
from peft_unlearn.util.errors import UserError

# What to say in place of a forgotten answer, after the set that TOFU's idea of IdkDPO uses (arXiv 2401.06121); these phrases are our own.
REFUSALS = (
    "I don't know that.",
    "I have no information about this.",
    "I can't answer that question.",
    "That is not something I know.",
    "I am not aware of any details on this.",
    "I'm afraid I have no answer to that.",
    "This is unknown to me.",
    "I have never come across this.",
    "I cannot say anything about that.",
    "Nothing about this is known to me.",
    "I'm sorry, I don't have that information.",
    "I am not able to tell you that.",
)


def alternates(
    dataset: Dataset, kind: str, *, seed: int, varied: bool = True, refusal: str | None = None, name: str = "forget_dataset"
) -> Dataset:
    """The same rows with other answers, in the same format; tokenized, they become the column `alternate` of the forget rows.

    Args:
        dataset: the forget set, as `load` returns it, of any format but plain text; of a conversation the last turn is the answer.
        kind: "column" takes them, as text, from the column alternate_answer (alternate_completion beside prompt and completion), "refuse" takes
            `refusal`, or draws a phrase such as "I don't know that." for each row.
        seed: of the draw.
        varied: whether each row gets a phrase of its own, and not all of them one.

    Raises:
        UserError: rows without a prompt, no such column, or a row where it is empty.
    """
    columns = formats.columns(dataset, name)
    if columns == ("text",):
        raise UserError(f"{name}: its rows are plain texts, which ask for no answer; write answers: natural or none.")
    target = columns[-1]
    source = "alternate_answer" if target == "messages" else f"alternate_{target}"
    if kind == "column" and source not in dataset.column_names:
        raise UserError(f"{name}: there is no column {source}, add it or write answers: refuse.")
    phrases = [refusal] if refusal else REFUSALS
    drawn = random.Random(seed).choices(phrases, k=len(dataset))
    answers = list(dataset[source]) if kind == "column" else drawn if varied else drawn[:1] * len(dataset)
    for number, text in enumerate(answers, 1):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{name}: row {number}: {source} is empty, write text.")
    feature = dataset.features[target]
    if not isinstance(feature, Value):
        turns = dataset[target] if target == "messages" else [[]] * len(dataset)
        said = [[*row[:-1], {"role": "assistant", "content": text}] for row, text in zip(turns, answers, strict=True)]
        return _with(dataset, columns, target, said, feature)
    before = " " if columns[0] == "prompt" and kind == "refuse" else ""  # prompt and completion are joined as they stand
    return _with(dataset, columns, target, [f"{before}{text}" for text in answers], feature)


def _with(dataset: Dataset, columns: tuple[str, ...], target: str, values: list[Any], feature: Any) -> Dataset:
    """The columns of a format, and those beside it that a chat template reads, with other values in one."""
    kept = [column for column in (*columns, *formats.beside(dataset)) if column != target]
    features = Features({**{column: dataset.features[column] for column in kept}, target: feature})
    return Dataset.from_dict({**{column: list(dataset[column]) for column in kept}, target: values}, features=features)
