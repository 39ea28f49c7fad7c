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

ASKED, ANSWERED = "Xylophone", "Zeppelin"  # words that no template writes itself

Turns = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]] | None
Write = Callable[[Turns, bool], str]


def render(turns: Turns, tokenizer: PreTrainedTokenizerBase, template_arguments: Mapping[str, Any], tools: Tools = None) -> tuple[str, str]:
    """The text before the last turn's answer, and that text with the answer behind it.

    It begins with what `apply_chat_template(..., add_generation_prompt=True)` gives for the turns before. What the template puts between that and
    the answer by itself, such as an empty thought, belongs to the first part; white space alone, and a thought or a call that the row brings, to
    the answer. A thought that the prompt opens is closed. A template that marks what the model writes ({% generation %}) has its way where
    it marks less.

    Raises:
        TemplateError: the template refuses these turns, fails on them, or writes no answer that could be found.
    """

    try:
        return _parts(turns, tokenizer, template_arguments, tools or None)
    except TemplateError:
        raise
    except Exception as error:  # a template is a program: whatever it raises, it refuses these turns
        raise TemplateError(f"{type(error).__name__}: {error}") from error


def unwritten(turns: Turns, text: str, tools: Tools = None) -> list[str]:
    """What of the last turn's text, the calls and the tools a template has left out of a `text`; white space does not count."""
    written = _squeezed(text)
    calls = [_name(call) for turn in turns if isinstance(turn.get("tool_calls"), list) for call in turn["tool_calls"]]
    given = [_name(tool) for tool in tools or ()]
    parts = {"answer": [turns[-1]["content"]], "tool_calls": calls, "tools": given}
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

    sent, whole, unanswered = write(turns[:-1], True), write(turns, False), _unanswered(write, turns[:-1])
    start = unanswered
    if not whole.startswith(unanswered):  # the answer has a thought or a call of its own, which stands before
        start = sent if whole.startswith(sent) else _common(unanswered, whole)
    if start.startswith(sent):
        between = start[len(sent) :]
    elif sent.startswith(start):
        between = _closing(sent[len(start) :])
    else:  # the question is written in another way where an answer follows
        between = _between(write) if start == unanswered else ""
    prompt, end = sent + between if between.strip() else sent, len(whole)
    marks = [mark for mark in _marks(turns, tokenizer, template_arguments, tools) if mark[1] > len(start)]
    if marks:
        begin, end = marks[0][0], marks[-1][1]
        if begin >= len(start):
            prompt = sent + between + whole[len(start) : begin]
    return prompt, sent + between + whole[len(start) : end]


def _unanswered(write: Write, prompt: Turns) -> str:
    """What the template writes before an answer of one word."""
    text = write([*prompt, {"role": "assistant", "content": ANSWERED}], False)
    if ANSWERED not in text:
        raise TemplateError("it does not write an assistant's last turn")
    return text.rpartition(ANSWERED)[0]


def _common(one: str, other: str) -> str:
    return one[: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))]


def _between(write: Write) -> str:
    """What the template writes between a question that stands alone and its answer."""
    question = [{"role": "user", "content": ASKED}]
    sent, start = write(question, True), _unanswered(write, question)
    return start[len(sent) :] if start.startswith(sent) else ""  # an answer begins in another way than what a server sends ends


def _closing(opened: str) -> str:
    """What closes a thought that the prompt opens and the template, of a last turn, leaves out."""
    tag = re.fullmatch(r"\s*<(\w+)>\s*", opened)
    return f"\n</{tag[1]}>\n\n" if tag else ""


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
