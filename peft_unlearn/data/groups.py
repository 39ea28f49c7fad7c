"""Which rows belong together: rows of one author, person or document are not independent, and intervals count them as one."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from datasets import Dataset

from peft_unlearn.data import formats
from peft_unlearn.data.names import names
from peft_unlearn.util.errors import UserError

logger = logging.getLogger(__name__)

COLUMNS = ("group", "author", "person", "subject", "document", "doc_id", "source", "title")
BY_NAMES = "order of the file, by shared names"

PIECES = "pieces of one text"

# Measured on TOFU, on LUME, on the demo's people, and on shuffled rows: nearly all boundaries, and few others.
SHARE = 0.2  # of all rows: a name that is more frequent is none, unless its rows are one run
APART = 2  # a name that one row in between lacks still joins the two beside it
JOINED = 0.2  # neighbors stay together from that weight on, see `by_names`


def find(dataset: Dataset, name: str, column: str | None = None, sources: Sequence[int] | None = None) -> tuple[list[int], str]:
    """The group of each tokenized row, and what says so in words; ([], "") where each row stands alone.

    The column is `column`, or else the first of `COLUMNS` whose values repeat. Where there is none, neighbors that share rare names are a group,
    see `by_names`; the rows that a long text was cut into always are. A set that is one group as a whole, such as one book or one person, has
    nothing to be told apart by: what is asked of it is asked of its rows, and each stands alone.

    Args:
        name: the recipe's key for this set, for messages.
        sources: for each tokenized row the number of its row in `dataset`, where a row may be several.

    Raises:
        UserError: no such column.
    """
    sources = range(len(dataset)) if sources is None else sources
    if column is not None and column not in dataset.column_names:
        raise UserError(f"group_column: {name} has no column {column!r}, write one of its own: {', '.join(dataset.column_names)}.")
    for candidate in (column,) if column is not None else [key for key in COLUMNS if key in dataset.column_names]:
        ids = by_values(dataset.with_format(None)[candidate][:])
        if 1 < len(set(ids)) < len(ids):
            return [ids[source] for source in sources], f"column {candidate}"
    if column is not None:
        logger.warning("Warning: group_column: %r is the same in all rows of %s or in no two, so each row stands alone.", column, name)
    elif not formats.is_tokenized(dataset):
        ids = by_names([text(row) for row in formats.rows(dataset, formats.columns(dataset, name))])
        if 1 < len(set(ids)) < len(ids):
            return [ids[source] for source in sources], BY_NAMES
    return (list(sources), PIECES) if 1 < len(set(sources)) < len(sources) else ([], "")


def by_values(values: Sequence[object]) -> list[int]:
    """A group for each value, of any type; a missing or blank one, or NaN, is a group of its own."""
    ids: dict[str | int, int] = {}
    return [
        ids.setdefault(row if value is None or value != value or not str(value).strip() else repr(value), len(ids))
        for row, value in enumerate(values)
    ]


def text(row: dict[str, Any]) -> str:
    """All that a row says; of a conversation not its system turn, which many share."""
    turns = [[{"role": "user", "content": value}] if isinstance(value, str) else value for value in row.values()]
    return "\n".join(turn["content"] for side in turns for turn in side if turn["role"] != "system")


def by_names(texts: Sequence[str]) -> list[int]:
    """Groups of consecutive texts that share rare names.

    A name's rows fall into runs, in which it misses at most one row at a time. A run of r rows of a name that R rows have joins its rows with
    weight ((r - 1) / R)²: near 1 for the name of an author whose rows follow one another, near 0 for a country that many authors have. Two
    neighbors are one group where the weights that span them sum to `JOINED` at least.

    Names of more than `SHARE` of the rows do not count, or of more than half where their rows are one run. Linear in the words.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for number, found in enumerate(names(texts)):
        for name in found:
            rows[name].append(number)
    weights = [0.0] * len(texts)  # of the step from each row to the next
    for held in rows.values():
        runs = list(_runs(held))
        if len(held) <= len(texts) * (SHARE if len(runs) > 1 else 0.5):
            for run in runs:
                for row in range(run[0], run[-1]):
                    weights[row] += ((len(run) - 1) / len(held)) ** 2
    ids = [0] * len(texts)
    for row in range(1, len(texts)):
        ids[row] = ids[row - 1] + (weights[row - 1] < JOINED)
    return ids


def _runs(numbers: Sequence[int]) -> Iterator[list[int]]:
    """Increasing numbers, cut where two lie more than `APART` from one another."""
    run = [numbers[0]]
    for number in numbers[1:]:
        if number - run[-1] > APART:
            yield run
            run = []
        run.append(number)
    yield run
