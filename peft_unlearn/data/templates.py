"""What a chat template writes of a conversation: what a server would send for an answer, and what the model would have to write then.

A template may write more than that between the two: an empty thought, a channel, a space. It may also write the question in another way once an
answer follows. So the answer is found by a word put in its place, and is set behind what a server would send.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

_TAG = r"(?:[\w]+:)?think(?:ing)?"  # of a thought
_EMPTY = re.compile(rf"\s*(?:<{_TAG}>\s*)?</{_TAG}>\s*")
_THOUGHT = re.compile(rf"(?:\s*<{_TAG}>)?.*?</{_TAG}>\s*", re.DOTALL)
_PART = re.compile(r"<[^<>]*$")
_CLOSED = re.compile(r"<([\w:]+)>\s*</\1>\s*$")
THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # what templates call a turn's thought

ASKED, ANSWERED = "Xylophone", "Zeppelin"  # words that no template writes itself

Turns = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]] | None
Write = Callable[[Turns, bool], str]


def render(turns: Turns, tokenizer: PreTrainedTokenizerBase, template_arguments: Mapping[str, Any], tools: Tools = None) -> tuple[str, str]:
    """The text before the last turn's answer, and that text with the answer behind it.

    It begins with what `apply_chat_template(..., add_generation_prompt=True)` gives for the turns before. What the template puts between that and
    the answer by itself belongs to the first part, and so does an empty thought, whoever wrote it: it says nothing of the answer, and stands in
    all of them. White space alone, and a thought or a call that the row brings, belong to the answer. A thought that the prompt opens is closed;
    where the prompt closes it, as without thinking, that of the row is left out. A template that marks what the model writes
    ({% generation %}) has its way where it marks less.

    Raises:
        TemplateError: the template refuses these turns, fails on them, or writes no answer that could be found.
    """

    try:
        lead, answer = _without_empty_thought(turns[-1])
        prompt, text = _parts([*turns[:-1], answer], tokenizer, template_arguments, tools or None)
    except TemplateError:
        raise
    except Exception as error:  # a template is a program: whatever it raises, it refuses these turns
        raise TemplateError(f"{type(error).__name__}: {error}") from error
    if not lead or _CLOSED.search(prompt):
        return prompt, text
    return prompt + lead, prompt + lead + text[len(prompt) :]


def _without_empty_thought(turn: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """An empty thought that a turn's content begins with, and the turn without it."""
    said = {key: value for key, value in turn.items() if key not in THOUGHTS or str(value or "").strip()}
    found = _EMPTY.match(said["content"])
    return (found[0], said | {"content": said["content"][found.end() :]}) if found else ("", said)


def _without_thought(turn: Mapping[str, Any]) -> dict[str, Any]:
    said = {key: value for key, value in turn.items() if key not in THOUGHTS}
    return said | {"content": _THOUGHT.sub("", said["content"], count=1) if _THOUGHT.match(said["content"]) else said["content"]}


def unwritten(turns: Turns, text: str, tools: Tools = None) -> list[str]:
    """What of the last turn's text, the calls and the tools a template has left out of a `text`; white space does not count."""
    written = _squeezed(text)
    calls = [_name(call) for turn in turns if isinstance(turn.get("tool_calls"), list) for call in turn["tool_calls"]]
    given = [_name(tool) for tool in tools or ()]
    thoughts = [turns[-1][key] for key in THOUGHTS if key in turns[-1]]
    parts = {"answer": [turns[-1]["content"]], "thought": thoughts, "tool_calls": calls, "tools": given}
    return [part for part, texts in parts.items() if not all(_squeezed(str(said)) in written for said in texts if said)]


def _name(call: Any) -> Any:
    """The name of a function that is called or given, as far as it has one."""
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    return inner.get("name") if isinstance(inner, Mapping) else None


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _parts(turns: Turns, tokenizer: PreTrainedTokenizerBase, template_arguments: Mapping[str, Any], tools: Tools) -> tuple[str, str]:
    def write(some: Turns, asks: bool) -> str:
        return str(tokenizer.apply_chat_template(list(some), tools=tools, tokenize=False, add_generation_prompt=asks, **template_arguments))

    sent = write(turns[:-1], True)
    if _CLOSED.search(sent):
        turns = [*turns[:-1], _without_thought(turns[-1])]
    whole, before = write(turns, False), _before(write, turns[:-1])
    start = before
    if not whole.startswith(before):  # the answer has a thought or a call of its own, which stands before
        start = sent if whole.startswith(sent) else _common(before, whole)
    between = _between(write, sent, start, whole[len(start) :], whole.startswith(before))
    if between.strip() and _CLOSED.search(sent + between):
        thought = _THOUGHT.match(turns[-1]["content"])
        if thought and THOUGHTS[0] not in turns[-1]:  # it closed a thought before one in the content, which it only knows apart
            inner = re.sub(rf"</?{_TAG}>", "", thought[0]).strip()
            answer = {**turns[-1], "content": turns[-1]["content"][thought.end() :], THOUGHTS[0]: inner}
            return _parts([*turns[:-1], answer], tokenizer, template_arguments, tools)
        # white space that a template left where it took a thought out
        start = whole[: len(whole) - len(whole[len(start) :].lstrip())]
    prompt, end = sent + between if between.strip() else sent, len(whole)
    marks = [mark for mark in _marks(turns, tokenizer, template_arguments, tools) if mark[1] > len(start)]
    if marks:
        begin, end = marks[0][0], marks[-1][1]
        if begin >= len(start):
            prompt = sent + between + whole[len(start) : begin]
    return prompt, sent + between + whole[len(start) : end]


def _before(write: Write, prompt: Turns) -> str:
    """What the template writes before an answer of one word."""
    text = write([*prompt, {"role": "assistant", "content": ANSWERED}], False)
    if ANSWERED not in text:
        raise TemplateError("it does not write an assistant's last turn")
    return text.rpartition(ANSWERED)[0]


def _common(one: str, other: str) -> str:
    """How both begin, without part of a tag."""
    return _PART.sub("", one[: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))])


def _between(write: Write, sent: str, start: str, answer: str, known: bool) -> str:
    """What the template writes between what is `sent` and an `answer` that it writes behind `start`; `known` if that is before any answer."""
    if start.startswith(sent):
        return start[len(sent) :]
    common = _common(sent, start)
    if sent.startswith(start):
        return _closing(sent[len(start) :], answer)
    if not sent[len(common) :].strip():  # a thought is opened there with a line break, and here without one
        return start[len(common) :]
    if not known:
        return ""
    question = [{"role": "user", "content": ASKED}]  # the question is written in another way where an answer follows
    sent, start = write(question, True), _before(write, question)
    return start[len(sent) :] if start.startswith(sent) else ""  # an answer begins in another way than what a server sends ends


def _closing(opened: str, answer: str) -> str:
    """What closes a thought that the prompt opens, and neither the template, of a last turn, nor the answer closes."""
    tag = re.fullmatch(r"\s*<([\w:]+)>\s*", opened)
    return f"\n</{tag[1]}>\n\n" if tag and f"</{tag[1]}>" not in answer else ""


def _marks(turns: Turns, tokenizer: PreTrainedTokenizerBase, template_arguments: Mapping[str, Any], tools: Tools) -> list[tuple[int, int]]:
    """Beginnings and ends of what the template marks as the model's, in characters."""
    template = tokenizer.get_chat_template(tools=tools)
    if not re.search(r"\{%-?\s*generation\b", template):
        return []
    said = [{key: value for key, value in turn.items() if value is not None} for turn in turns]  # as apply_chat_template does
    arguments = {**tokenizer.special_tokens_map, **template_arguments}
    marks: list[list[tuple[int, int]]]
    _, marks = render_jinja_template([said], tools=tools, chat_template=template, return_assistant_tokens_mask=True, **arguments)
    return marks[0]
