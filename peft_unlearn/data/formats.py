"""What a row may look like, and how it splits into a prompt and a completion.

| columns | prompt | completion (carries the loss) |
| --- | --- | --- |
| messages | all turns but the last | the last turn, the assistant's |
| prompt, completion (text) | prompt | completion, joined as it stands |
| prompt, completion (lists of messages) | all turns but the last | the last turn, the assistant's |
| question, answer | the user's turn, or "Question: ...\\nAnswer:" without a chat template | the assistant's turn, or " ..." |
| text | nothing | all of it |

A set that has the columns of several formats is read as the first of them; one that has those of none may still be read, see
`peft_unlearn.data.shapes`. Messages are {role, content} with text content, and what else a chat template reads, such as tool_calls; a column
`tools` beside them is the template's, and so is `chat_template_kwargs`. Only the last assistant turn carries loss: chat templates may render an
earlier turn differently from a last one, so a conversation whose every turn counts is written as several rows. Row numbers in error messages
count from 1.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Dataset, Json, List
from transformers import PreTrainedTokenizerBase

from peft_unlearn.data import shapes, templates
from peft_unlearn.util.errors import UserError

FORMATS = (("messages",), ("prompt", "completion"), ("question", "answer"), ("text",))
COLUMNS = tuple(column for columns in FORMATS for column in columns)
ROWS_PER_BATCH = 1000
MAY_BE_EMPTY = ("system", "developer", "tool")  # roles whose turn may say nothing


def columns(dataset: Dataset, name: str) -> tuple[str, ...]:
    """The columns of the first format that the set has.

    Raises:
        UserError: no format is complete.
    """
    for candidate in FORMATS:
        if set(candidate) <= set(dataset.column_names):
            return candidate
    if {"chosen", "rejected"} <= set(dataset.column_names):
        told = "completion" if "prompt" in dataset.column_names else "messages"
        raise UserError(
            f"{name}: chosen and rejected say which answer is preferred and not which one to read, write rename_columns: {{chosen: {told}}} "
            f"or {{rejected: {told}}}."
        )
    for candidate in FORMATS:
        there = [column for column in candidate if column in dataset.column_names]
        if there:
            missing = next(column for column in candidate if column not in there)
            raise UserError(f"{name}: column {missing!r} is missing beside {there[0]}, add it.")
    # Their names are not told: those of a csv file without a header are a row.
    raise UserError(
        f"{name}: none of its {len(dataset.column_names)} columns is text, prompt and completion, question and answer, or messages; "
        "name them so, or write {path: ..., rename_columns: {its name: text}}."
    )


def settled(dataset: Dataset, name: str) -> Dataset:
    """The set in one of the formats, as far as `peft_unlearn.data.shapes` can bring it there.

    Raises:
        UserError: see `shapes.settled`.
    """
    return shapes.settled(
        dataset, name, lambda found: is_tokenized(found) or any(set(columns) <= set(found.column_names) for columns in FORMATS[:-1])
    )


def beside(dataset: Dataset) -> tuple[str, ...]:
    """The columns beside those of a format that the chat template reads: of a settled set they are lists and objects."""
    return tuple(column for column in shapes.BESIDE if column in dataset.column_names and isinstance(dataset.features[column], List | Json))


def is_tokenized(dataset: Dataset) -> bool:
    return {"input_ids", "labels"} <= set(dataset.column_names)


def rows(dataset: Dataset, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows as dicts of those columns, in order; read in batches, 12 times as fast as row by row (100k rows: .18 s)."""
    for batch in dataset.with_format(None).select_columns(list(columns)).iter(ROWS_PER_BATCH):
        yield from unbatch(batch, columns)


def unbatch(batch: dict[str, list[Any]], columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for values in zip(*(batch[column] for column in columns), strict=True):
        yield dict(zip(columns, values, strict=True))


def check(dataset: Dataset, name: str) -> tuple[str, ...]:
    """Check that there are rows and that every one of them can be split; returns the format's columns.

    Raises:
        UserError: no rows, missing columns, or a row with a value that is missing, empty or of another kind.
    """
    if len(dataset) == 0:
        raise UserError(f"{name}: the set has no rows, give at least one.")
    found = columns(dataset, name)
    kind = list if isinstance(dataset.with_format(None)[0][found[0]], list) or found == ("messages",) else str
    for number, row in enumerate(rows(dataset, found), start=1):
        fault = _fault(row, kind)
        if fault:
            raise UserError(f"{name}: {_odd_row(dataset) or f'row {number}: {fault}'}.")
    return found


def _fault(row: dict[str, Any], kind: type) -> str | None:
    """What keeps this row from being split, in words that do not repeat its text; None if nothing does."""
    for column, value in row.items():
        if value is None:
            return f"{column} is missing, write text"
        if kind is str and not isinstance(value, str):
            return f"{column} is not text, write it as text"
        if kind is str and not value.strip():
            return f"{column} is empty, write text or take the row out"
        if kind is list and not (isinstance(value, list) and value and all(_is_message(message) for message in value)):
            return f"{column} is not a list of messages, write {{role, content}} with text in both"
    if kind is list:
        turns = [message for value in row.values() for message in value]
        ends = "the conversation must end with an assistant turn after another one"
        if turns[-1]["role"] != "assistant":
            return f"{ends}, and ends with one of {repr(role) if (role := turns[-1]['role']) in shapes.ROLES else 'another role'}"
        if len(turns) < 2:
            return ends
    return None


def _odd_row(dataset: Dataset) -> str | None:
    """The first row of another format than most rows; a loader gives each row the columns of all, empty where it brought none itself."""
    complete = [columns for columns in FORMATS if set(columns) <= set(dataset.column_names)]
    found = [
        next((columns for columns in complete if all(row[column] not in (None, "") for column in columns)), None)
        for row in rows(dataset, tuple(column for columns in complete for column in columns))
    ]
    ranks = Counter(columns for columns in found if columns).most_common()  # among equals the earlier one is the usual
    if len(ranks) < 2:
        return None
    usual = ranks[0][0]
    odd = next(columns for columns in found if columns not in (None, usual))
    return (
        f"row {found.index(odd) + 1} has {', '.join(odd)} and row {found.index(usual) + 1} has {', '.join(usual)}, "
        "write all rows in one of the two ways"
    )


def _is_message(message: Any) -> bool:
    """Whether a turn has a role and text; a system turn and a tool's answer may be empty, and so may a turn that calls tools."""
    if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
        return False
    return bool(message["role"].strip() and (message["content"].strip() or message["role"] in MAY_BE_EMPTY or message.get("tool_calls")))


def render(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, template_arguments: Mapping[str, Any]) -> tuple[str, str]:
    """(prompt, prompt and completion) of a checked row as the text that is tokenized.

    `template_arguments` are variables of the chat template, the same for both sides, such as Qwen3's enable_thinking; the row's own go before.

    Raises:
        jinja2.TemplateError: the chat template refuses these turns.
    """
    if turns := conversation(row, tokenizer):
        return templates.render(turns, tokenizer, {**template_arguments, **(row.get("chat_template_kwargs") or {})}, row.get("tools"))
    if "text" in row:
        return "", row["text"]
    if "prompt" in row:
        return row["prompt"], row["prompt"] + row["completion"]
    prompt = f"Question: {row['question']}\nAnswer:"
    return prompt, f"{prompt} {row['answer']}"


def conversation(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """The turns of a checked row that the chat template writes, the last one the answer; none of a row that is plain text."""
    if not is_chat(row, tokenizer):
        return []
    if "question" in row:
        return [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
    return [*row.get("messages", ()), *row.get("prompt", ()), *row.get("completion", ())]


def is_chat(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether `render` writes this row with the chat template, which brings its own special tokens."""
    return isinstance(next(iter(row.values())), list) or ("question" in row and bool(tokenizer.chat_template))
