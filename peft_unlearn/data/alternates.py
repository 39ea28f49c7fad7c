"""Answers to give in place of the forgotten ones, where no model is asked for them: a column's, or refusals."""

import random

from datasets import Dataset

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


def alternates(dataset: Dataset, kind: str, *, seed: int, varied: bool = True, name: str = "forget_dataset") -> Dataset:
    """The same rows with other answers, in the same format; tokenized, they become the column `alternate` of the forget rows.

    Args:
        dataset: the forget set, as `load` returns it: question and answer, or prompt and completion as text.
        kind: "column" takes them from the column alternate_answer (or alternate_completion), "refuse" draws a phrase such as "I don't know
            that." for each row.
        seed: of the draw.
        varied: whether each row gets a phrase of its own, and not all of them one.

    Raises:
        UserError: rows without a prompt, no such column, or a row where it is empty.
    """
    columns = formats.columns(dataset, name)
    if len(columns) != 2 or not isinstance(dataset[0][columns[1]], str):
        raise UserError(f"{name}: alternate answers need question and answer, or prompt and completion as text; its rows are {columns[0]}.")
    source, target = f"alternate_{columns[1]}", columns[1]
    if kind == "column" and source not in dataset.column_names:
        raise UserError(f"{name}: there is no column {source}, add it or write answers: refuse.")
    drawn = random.Random(seed).choices(REFUSALS, k=len(dataset))
    texts = list(dataset[source]) if kind == "column" else drawn if varied else drawn[:1] * len(dataset)
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{name}: row {number}: {source} is empty, write text.")
    if columns[0] == "prompt" and kind == "refuse":
        texts = [f" {text}" for text in texts]  # prompt and completion are joined as they stand
    return dataset.select_columns([columns[0]]).add_column(target, texts)
