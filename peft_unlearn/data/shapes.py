"""Rows as people have them, made into those of `peft_unlearn.data.formats`.

| as it comes | as it is read |
| --- | --- |
| conversations, of {from, value} (ShareGPT) or of {role, content} | messages; a column `system` is the first turn |
| a turn from function_call with {name, arguments} as JSON text | an assistant's turn with tool_calls |
| a turn with a function_call (OpenAI's older way) | its tool_calls |
| instruction, input, output (Alpaca) | question (the input on a line of its own) and answer |
| the same with system or history, of pairs (LLaMA-Factory) | messages |
| content in parts of text | their text, one after the other |
| tool_calls with content that is null, and arguments as JSON text | no content, and the arguments that the text says |
| tools as JSON text | the list that it says |

All else stays as it is, and `formats.check` refuses what it does not know.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset, Features, Json, List, Value

from peft_unlearn.util.errors import UserError

SPEAKERS = {
    "human": "user",
    "user": "user",
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    "function_call": "assistant",
    **dict.fromkeys(("gpt", "chatgpt", "model", "assistant"), "assistant"),
}
ROLES = {*SPEAKERS, "developer"}  # that a message may name: whatever else stands in a row is not told
CONVERSATIONS = ("conversations", "conversation")
ALPACA = ("instruction", "input", "output")
ALPACA_MORE = ("system", "history")
TURNS = ("messages", "prompt", "completion")
BESIDE = ("tools", "chat_template_kwargs")  # columns that a conversation's template reads as well
PLAIN = {"role", "content"}
_FUNCTION = {"type": "function"}


def settled(dataset: Dataset, name: str, known: Callable[[Dataset], bool]) -> Dataset:
    """The set in a format of `peft_unlearn.data.formats`; the same object where it is already.

    Args:
        name: the recipe's key for this set, for messages.
        known: whether a set has all columns of a format.

    Raises:
        UserError: a speaker, a part of content or a column beside that nothing can be made of, with its row.
    """
    columns = set(dataset.column_names)
    if not known(dataset):
        talk = next((column for column in CONVERSATIONS if column in columns), None)
        if talk:
            return _changed(dataset.rename_column(talk, "messages"), ["messages", *columns.intersection(BESIDE)], name, ("system",))
        if {"instruction", "output"} <= columns:
            return _of_alpaca(dataset, name)
    turns = [column for column in TURNS if column in columns and not _is_text(dataset.features[column])]
    odd = [column for column in turns if not _is_plain(dataset.features[column])]
    if turns and (odd or columns.intersection(BESIDE)):
        return _changed(dataset, [*turns, *columns.intersection(BESIDE)], name)
    return dataset


def _changed(dataset: Dataset, columns: list[str], name: str, lead: tuple[str, ...] = ()) -> Dataset:
    """The set with these columns read, and columns of `lead` put before the first turn where they say something."""
    features = dataset.features
    lead = tuple(column for column in lead if column in features)

    def read(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for column in columns:
            values = zip(numbers, (_given(value, features[column]) for value in batch[column]), strict=True)
            found[column] = [_read(value, column, f"{name}: row {number + 1}") for number, value in values]
        for column in lead:
            for turns, text in zip(found["messages"], batch[column], strict=True):
                if isinstance(turns, list) and isinstance(text, str) and text.strip():
                    turns.insert(0, {"role": column, "content": text})
        return found

    kept = {column: feature for column, feature in features.items() if column not in (*columns, *lead)}
    new = {column: Json() if column == "chat_template_kwargs" else List(Json()) for column in columns}
    return _map(dataset, read, lead, Features(kept | new), name)


def called(dataset: Dataset) -> str:
    """What people call the shape of a set that is in no format, or not wholly."""
    columns = set(dataset.column_names)
    if columns.intersection(CONVERSATIONS):
        return "ShareGPT conversations"
    return "Alpaca" if {"instruction", "output"} <= columns else "messages"


def _of_alpaca(dataset: Dataset, name: str) -> Dataset:
    """Questions and answers, or messages where a row has a system turn or turns before."""
    used = [column for column in (*ALPACA, *ALPACA_MORE) if column in dataset.column_names]
    talks = any(value for column in ALPACA_MORE if column in used for value in dataset[column])

    def read(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        inputs = batch.get("input", [""] * len(numbers))
        asked = zip(batch["instruction"], inputs, strict=True)
        questions = [f"{text}\n{more}" if isinstance(more, str) and more.strip() else text for text, more in asked]
        if not talks:
            return {"question": questions, "answer": batch["output"]}
        systems, histories = (batch.get(column, [None] * len(numbers)) for column in ALPACA_MORE)
        rows = zip(systems, histories, questions, batch["output"], strict=True)
        return {"messages": [_talk(*row, f"{name}: row {number + 1}") for number, row in zip(numbers, rows, strict=True)]}

    kept = {column: feature for column, feature in dataset.features.items() if column not in used}
    texts = {"question": dataset.features["instruction"], "answer": dataset.features["output"]}
    return _map(dataset, read, tuple(used), Features(kept | ({"messages": List(Json())} if talks else texts)), name)


def _talk(system: Any, history: Any, question: Any, answer: Any, where: str) -> list[dict[str, Any]]:
    """The turns of an Alpaca row that has more than a question and its answer."""
    pairs = [*(history or ()), (question, answer)]
    if not isinstance(history or [], list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise UserError(f"{where}: history is no list of pairs, write [[question, answer], ...] or leave it out.")
    turns = [{"role": role, "content": said} for pair in pairs for role, said in zip(("user", "assistant"), pair, strict=True)]
    return [{"role": "system", "content": system}, *turns] if system else turns


def _map(dataset: Dataset, read: Callable[..., dict[str, list[Any]]], gone: tuple[str, ...], features: Features, name: str) -> Dataset:
    return dataset.with_format(None).map(
        read,
        batched=True,
        with_indices=True,
        remove_columns=list(gone),
        features=features,
        keep_in_memory=True,  # nothing of a set of texts is left in a cache
        load_from_cache_file=False,
        desc=f"Reading {name}",
    )


def _read(value: Any, column: str, where: str) -> Any:
    if column == "tools":
        return _tools(value, where)
    if column == "chat_template_kwargs":
        value = _parsed(value)
        if value not in (None, "") and not isinstance(value, dict):
            raise UserError(f"{where}: chat_template_kwargs is no JSON object, write one or leave it out.")
        return value or None
    if value is not None and not isinstance(value, list):
        raise UserError(f"{where}: {column} is not a list of messages, write [{{role, content}}, ...].")
    return value and [_turn(turn, where) for turn in value]


def _turn(turn: Any, where: str) -> Any:
    """A turn of role and content, the content text; as it is where it is none."""
    if not isinstance(turn, dict):
        return turn
    if "role" not in turn and "from" in turn:
        turn = _of_speaker(turn, where)
    turn = turn | ({"content": _text(turn["content"], where)} if isinstance(turn.get("content"), list) else {})
    if isinstance(call := turn.get("function_call"), dict):
        turn = {key: value for key, value in turn.items() if key != "function_call"} | {"tool_calls": [_FUNCTION | {"function": call}]}
    if turn.get("role") == "function":
        turn = turn | {"role": "tool"}
    if not turn.get("tool_calls"):
        return turn
    calls = [_call(call, where) for call in turn["tool_calls"]] if isinstance(turn["tool_calls"], list) else turn["tool_calls"]
    return turn | {"content": turn.get("content") or "", "tool_calls": calls}


def _of_speaker(turn: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A turn of {from, value} as one of {role, content}."""
    said = {key: value for key, value in turn.items() if key not in ("from", "value")}
    speaker, value = str(turn["from"]).lower(), turn.get("value")
    if speaker not in SPEAKERS:
        raise UserError(f"{where}: a turn is from nobody that is known, write {', '.join(SPEAKERS)}, or messages with role and content.")
    found = _parsed(value) if speaker == "function_call" else None
    calls = found if isinstance(found, list) else [found]
    if all(isinstance(call, dict) and "name" in call for call in calls):
        return {"role": "assistant", "content": "", "tool_calls": [_FUNCTION | {"function": call} for call in calls], **said}
    return {"role": SPEAKERS[speaker], "content": value, **said}


def _text(parts: list[Any], where: str) -> str:
    for part in parts:
        if not isinstance(part, str) and not (isinstance(part, dict) and isinstance(part.get("text"), str)):
            raise UserError(f"{where}: a turn has content that is no text, only text can be read; take it out.")
    return "".join(part if isinstance(part, str) else part["text"] for part in parts)


def _call(call: Any, where: str) -> Any:
    """A call with its arguments as an object, as servers give them to a template."""
    if not isinstance(call, dict):
        raise UserError(f"{where}: a turn has tool_calls that are no functions, write each as {{name, arguments}} or take them out.")
    if "function" in call:
        return call | {"function": _call(call["function"], where)}
    arguments = _parsed(call.get("arguments"))
    return call | {"arguments": arguments} if isinstance(arguments, dict) else call


def _tools(value: Any, where: str) -> list[Any] | None:
    tools = _parsed(value) or None
    tools = [_parsed(tool) for tool in tools] if isinstance(tools, list) else tools
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise UserError(f"{where}: tools is no list of functions, write a list of JSON objects or leave it out.")
    return tools


def _parsed(value: Any) -> Any:
    """What a JSON text says; anything else, and text that is no JSON, as it is."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _given(value: Any, feature: Any) -> Any:
    """A value without the keys that Arrow put into it: a struct has those of all rows, null where a row has none. JSON is as it was written."""
    if isinstance(feature, Mapping) and isinstance(value, Mapping):
        return {key: _given(found, feature.get(key)) for key, found in value.items() if found is not None}
    inner = getattr(feature, "feature", None) if not isinstance(feature, list) else feature[0]
    if inner is not None and isinstance(value, list):
        return [_given(found, inner) for found in value]
    return value


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value)


def _is_plain(feature: Any) -> bool:
    """Whether a column holds lists of {role, content} with text in both."""
    inner = getattr(feature, "feature", None)
    return isinstance(inner, Mapping) and set(inner) == PLAIN and all(map(_is_text, inner.values()))
