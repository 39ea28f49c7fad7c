"""Where a turn ends in a chat template: found by writing a conversation with it."""

import re
from typing import NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from peft_unlearn.data.templates import ANSWERED, ASKED

_EMPTY_THOUGHT = re.compile(r"<(\w+)>\s*</\1>\s*$")


class Turn(NamedTuple):
    """An assistant's turn: the token that ends it or the text that does (None and "" where the template shows neither), and what opens it."""

    end_token: int | None
    end_text: str
    opening: str

    def opened(self, prompt: str) -> bool:
        """Whether a prompt ends as the template leaves it for the assistant, or with an empty thought behind that."""
        return _EMPTY_THOUGHT.sub("", prompt).rstrip().endswith(self.opening)

    def closed(self, answer: str) -> bool:
        """Whether an answer ends with the text that ends a turn."""
        return bool(self.end_text) and answer.rstrip().endswith(self.end_text.strip())


NO_TURN = Turn(None, "", "")


def turn(tokenizer: PreTrainedTokenizerBase) -> Turn:
    """How the chat template ends an assistant's turn, by what it writes behind one, or else between one and the next question.

    The first added token there ends the turn, whether or not tokenizer or model call it an end token. Where there is none, it is ended by
    text: "</s>" in a vocabulary that does not have it, or the heading of the next turn, such as "\\n### User:".
    """
    if not tokenizer.chat_template:
        return NO_TURN
    question, answer = {"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}
    try:
        opening = _write(tokenizer, [question], True).rpartition(ASKED)[2].strip()
        last = _write(tokenizer, [question, answer], False)
    except TemplateError:
        return NO_TURN
    if ANSWERED not in last:
        return NO_TURN
    try:
        longer = _write(tokenizer, [question, answer, question], False)
    except TemplateError:
        longer = last
    behind = last.rpartition(ANSWERED)[2]
    between = longer.rpartition(ANSWERED)[2].partition(ASKED)[0]
    for written in (behind, between):
        tokens = tokenizer(written.strip(), add_special_tokens=False)["input_ids"]
        known = tokenizer.added_tokens_decoder
        added = [token for token in tokens if token in known and known[token].content in written]  # <unk> is one too
        if added:
            return Turn(added[0], "", opening)
        if written.strip():
            line = "\n" if "\n" in written[: -len(written.lstrip())] else ""
            return Turn(None, line + written.strip(), opening)
    return Turn(None, "", opening)


def _write(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], opened: bool) -> str:
    """What the template writes.

    Raises:
        TemplateError: it refuses these turns; a template is a program, and whatever it raises refuses them.
    """
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened))
    except TemplateError:
        raise
    except Exception as error:
        raise TemplateError(f"{type(error).__name__}: {error}") from error
