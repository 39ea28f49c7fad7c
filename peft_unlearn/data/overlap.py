"""Forget rows that also stand in the retain set would be pushed both ways; in the holdout, what nobody learnt would be told by what was."""

from collections.abc import Hashable, Iterator
from typing import Any

from datasets import Dataset

from peft_unlearn.data import formats
from peft_unlearn.util.errors import UserError

HEADINGS = ("Question:", "Answer:")  # what a text has that was a question and its answer


def check_apart(forget: Dataset, other: Dataset, name: str) -> None:
    """Refuse forget rows that also stand in another set, `name`.

    Texts are compared word for word: spacing, line breaks and the format do not count. Sets that are tokenized, both of them, are compared by
    their tokens. Linear in the rows of both.

    Raises:
        UserError: names the first such row in both sets, counted from 1, and how many there are.
    """
    wanted = list(said(forget, "forget_dataset"))
    among = set(wanted)
    places: dict[Hashable, int] = {}
    for number, words in enumerate(said(other, name), start=1):
        if words in among:
            places.setdefault(words, number)
    shared = [(number, places[words]) for number, words in enumerate(wanted, start=1) if words in places]
    if shared:
        more = f" (and {len(shared) - 1} more like it)" if len(shared) > 1 else ""
        raise UserError(
            f"forget_dataset: row {shared[0][0]} also stands in {name} as row {shared[0][1]}{more}, take it out of one of the two."
        )


def said(dataset: Dataset, name: str) -> Iterator[Hashable]:
    """What each row of a settled set says: its tokens, or its text with single spaces between words."""
    if formats.is_tokenized(dataset):
        return (tuple(row["input_ids"]) for row in formats.rows(dataset, ("input_ids",)))
    return (_words(row) for row in formats.rows(dataset, formats.columns(dataset, name)))


def _words(row: dict[str, Any]) -> str:
    parts = (part for value in row.values() for part in ([value] if isinstance(value, str) else map(_turn, value)))
    return " ".join(word for part in parts for word in part.split() if word not in HEADINGS)


def _turn(message: dict[str, Any]) -> str:
    return f"{message['content']} {message.get('tool_calls') or ''}"
