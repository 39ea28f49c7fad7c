"""Rows to evaluate, and other wordings of them: the same question asked differently, the right answer in other words, wrong answers."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from peft_unlearn import data
from peft_unlearn.data import formats, groups, rewording
from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.rows import Row, evenly
from peft_unlearn.data.tokenizing import Tokenized
from peft_unlearn.util.errors import UserError

# Kind of variant -> the side of the row that it replaces: 0 the question, 1 the answer.
KINDS = {"paraphrased_question": 0, "paraphrased_answer": 1, "perturbed_answer": 1}


REWORDED = ("forget", "holdout")  # the sets that are asked in other words as well
UNCUT = 1 << 30  # tokens: wordings are cut where their row was, not where a longer prompt would cut them


Tokens = Callable[..., Tokenized]  # of a set, its name for messages, and if need be another max_length


class Probe(NamedTuple):
    """Tokenized rows, and for each kind of variant that the set has a list for each row, possibly empty.

    `groups` has an id for each row, the same for rows that belong together, and is empty where each row stands alone; `grouped_by` says by what.
    """

    rows: Dataset
    variants: dict[str, list[list[Row]]]
    groups: Sequence[int] = ()
    grouped_by: str = ""

    def select(self, kept: Sequence[int]) -> "Probe":
        """These rows, by their numbers, with all that belongs to them."""
        variants = {kind: [lists[row] for row in kept] for kind, lists in self.variants.items()}
        return Probe(self.rows.select(kept), variants, [self.groups[row] for row in kept] if self.groups else (), self.grouped_by)


def grouped(probes: Mapping[str, Probe]) -> dict[str, dict[str, Any]]:
    """Which rows of each set belong together, as a report has it; without the sets whose rows all stand alone."""
    return {name: {"by": found.grouped_by, "ids": list(found.groups)} for name, found in probes.items() if len(found.groups)}


def probe(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    name: str,
    template_arguments: Mapping[str, Any] | None = None,
    reword: bool = False,
    reword_rows: int = 0,
    group_column: str | None = None,
) -> Probe:
    """Tokenize a set and the variants that stand in its columns beside the rows, make others by rules, and tell which rows belong together.

    | format | paraphrased question | paraphrased answer | wrong answers |
    | --- | --- | --- | --- |
    | question, answer | paraphrased_question | paraphrased_answer | perturbed_answer |
    | prompt, completion (text) | paraphrased_prompt | paraphrased_completion | perturbed_completion |

    Each value is a text, a list of texts, or null for none. Kinds are named by the first line of the table whatever the format. The other
    formats have no such columns. Other arguments are those of `data.tokenize`.

    Args:
        reword: whether to make the kind "reworded", by the rules of `peft_unlearn.data.rewording`: of each row at most `rewording.MOST`, with
            the row's own labels as far as `max_length` lets them be.
        reword_rows: of how many rows, evenly spaced; 0 is all. Each row costs as much as tokenizing it `rewording.MOST` times.
        group_column: see `groups.find`.

    Raises:
        UserError: what `data.tokenize` and `groups.find` refuse, of the rows or of a variant; a value of another kind, with its column and row.
    """

    def tokens(texts: Dataset, of: str, length: int = max_length) -> Tokenized:
        return data.tokenize(texts, tokenizer, length, name=of, template_arguments=template_arguments)

    dataset = formats.settled(dataset, name)
    tokenized = tokens(dataset, name)
    sides = formats.columns(dataset, name)
    variants = {}
    for kind, side in KINDS.items() if sides in (("question", "answer"), ("prompt", "completion")) else ():
        column = f"{kind.split('_')[0]}_{sides[side]}"
        if column in dataset.column_names:
            variants[kind] = _of_column(dataset, name, sides, side, column, tokens)
    if reword:
        chosen = evenly(len(tokenized.rows), reword_rows)
        rows = tokenized.rows.select(chosen)
        texts = sides == ("text",)
        found = (
            (rewording.begun_otherwise(row, tokenizer) for row in rows) if texts else _asked(dataset.select(chosen), name, sides, tokens)
        )
        variants["reworded"] = [[] for _ in tokenized.rows]
        for number, row, wordings in zip(chosen, rows, found, strict=True):
            variants["reworded"][number] = _fitting(row, wordings, max_length)
    return Probe(tokenized.rows, variants, *groups.find(dataset, name, group_column, tokenized.sources))


def _of_column(dataset: Dataset, name: str, sides: tuple[str, ...], side: int, column: str, tokens: Tokens) -> list[list[Row]]:
    """Each row once with every text of a column in the place of one of its sides."""
    own = list(formats.rows(dataset, (*sides, column)))
    texts = [_texts(row, column, f"{name}: row {number}") for number, row in enumerate(own, start=1)]
    variants: list[list[Row]] = [[] for _ in own]
    for turn in range(max(map(len, texts))):
        # A row without a variant of this turn stands for itself, so that messages name the rows as the user counts them.
        changed = [
            {key: row[key] for key in sides} | ({sides[side]: found[turn]} if turn < len(found) else {})
            for row, found in zip(own, texts, strict=True)
        ]
        for others, found, row in zip(variants, texts, tokens(Dataset.from_list(changed), f"{name}.{column}").rows, strict=True):
            if turn < len(found):
                others.append(row)
    return variants


def _asked(dataset: Dataset, name: str, sides: tuple[str, ...], tokens: Tokens) -> list[list[Row]]:
    """Each row in other words, all of them tokenized in one go and uncut."""
    asked = [rewording.prompts(row) for row in formats.rows(dataset, (*sides, *formats.beside(dataset)))]
    flat = [row for found in asked for row in found]
    made = iter(tokens(Dataset.from_list(flat, on_mixed_types="use_json"), f"{name}.reworded", UNCUT).rows if flat else ())
    return [list(islice(made, len(found))) for found in asked]


def _fitting(row: Row, wordings: Sequence[Row], max_length: int) -> list[Row]:
    """The wordings of at most `max_length` tokens, without those that other tokens follow than the row's own, or less than half of them."""
    answer = [label for label in row["labels"] if label != IGNORE]
    found: list[Row] = []
    for wording in wordings:
        start = next(i for i, label in enumerate(wording["labels"]) if label != IGNORE)
        length = min(max_length, start + len(answer))
        said = wording["labels"][start:length]
        if (
            2 * len(said) >= len(answer)
            and said in (answer[: len(said)], answer[-len(said) :])
            and wording["input_ids"] != row["input_ids"]
        ):
            found.append({key: wording[key][:length] for key in ("input_ids", "labels")})
    return found


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
