"""Rows that stand in the forget set and in the retain set would be pushed both ways."""

from typing import Any

from datasets import Dataset

from peft_unlearn.data import formats
from peft_unlearn.errors import UserError


def forget_in_retain(forget: Dataset, retain: Dataset) -> None:
    """Refuse forget rows that also stand in the retain set, word for word; spacing, line breaks and the format do not count.

    Linear in the rows of both.

    Raises:
        UserError: names the first such row in both sets, counted from 1, and how many there are.
    """
    places = {_words(row): number for number, row in enumerate(formats.rows(retain, formats.columns(retain, "retain_dataset")), start=1)}
    forget_rows = enumerate(formats.rows(forget, formats.columns(forget, "forget_dataset")), start=1)
    shared = [(number, places[words]) for number, row in forget_rows if (words := _words(row)) in places]
    if shared:
        more = f" (and {len(shared) - 1} more like it)" if len(shared) > 1 else ""
        raise UserError(
            f"forget_dataset: row {shared[0][0]} also stands in retain_dataset as row {shared[0][1]}{more}, take it out of one of the two."
        )


def _words(row: dict[str, Any]) -> str:
    """The row's text with single spaces between words."""
    parts = (part for value in row.values() for part in ([value] if isinstance(value, str) else [message["content"] for message in value]))
    return " ".join(word for part in parts for word in part.split())
