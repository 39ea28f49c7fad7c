"""Other wordings of a question or a prompt, made by rules: what a model knows only in one wording is told from what it knows.

Rules of English fire on English alone, those without words on any language. The answer is never touched.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.rows import Row

MOST = 3  # wordings a row: each costs a forward pass
LEAD = "Here is a text:\n"
LONG = 500  # characters of a question, from which on it is a passage that no rule of a sentence fits

_ASKS = r"what|who|whom|whose|which|where|when|why|how"
_STAYS = re.compile(r"\bborn\b|^(?:Can|Could|Would) you\b")  # such a clause says who is asked about, or what is asked for
_ENGLISH = re.compile(rf"(?i)(?:{_ASKS}|(?:can|could|would) you|(?:in|on|at|for|to|from|by) (?:what|which|whom?))\b")
_OTHER_START = re.compile(
    r"(?i)(?:is|are|was|were|do|does|did|has|have|had|will|can|could|apart|besides|through|throughout|during|in|according)\b"
)
_COMMON = re.compile(r"(?i)\b(?:the|of|any|there|ever|with|what|which|who|his|her|their|you|your|for|and|how)\b")
_COMMAND = re.compile(
    r"(?:Please )?(Write|Tell|Give|Describe|Name|List|Explain|Summarize|Summarise|State|Provide|Share|Say|Mention|Complete|Discuss)\b"
)
_LABELED = re.compile(r"([^\n:?]{1,30}:\s*)(.+?)(\s*\n[^\n:]{1,30}:\s*)", re.DOTALL)  # Question: ...\nAnswer:
_NOUN = r"(?:(?:the|some|one|an?|his|her|their|its|any)\b|[A-Z][^,?]*['’]s? ).+"
_HANGS = re.compile(r"(?i)\b(?:for|of|in|on|to|by|with|from|about|at|as|called|named|doing)$|\blike\b")
_TWO = re.compile(rf"\b(?:and|or) (?:{_ASKS})\b")  # two questions in one
_CLAUSE = (
    r"(?:in|since|until|before|after) (?:the year )?\d{4}|according to [^,?]+|apart from [^?]+|besides [^?]+"
    r"|during [^,?]+|throughout [^,?]+|over the years|as of [^,?]+|in (?:his|her|their) [^,?]+|on \w+ \d{1,2}(?:, \d{4})?"
)
_WORDS = re.compile(r"\w+|[^\w\s]")
_STOP = re.compile(r"[.?!。？！]['\"”»’)]*\s+(?=\S)|[。？！]")


def texts(prompt: str, *, continued: bool = False) -> list[str]:
    """At most `MOST` wordings of a prompt: of all that the rules give, those that differ most from it and from one another.

    Args:
        continued: whether the answer follows the prompt on the same line, so that an unfinished sentence or a passage is to go on.

    >>> texts("Where was Ann Lee born?")
    ['Ann Lee was born in', 'where was ann lee born', 'I keep forgetting this: where was Ann Lee born?']
    """
    labels = _LABELED.fullmatch(prompt)
    head, core, tail = labels.groups() if labels else ("", prompt.strip(), prompt[len(prompt.rstrip()) :])
    found = list(_continued(core) if continued and not labels and _goes_on(core) else _asked(core))
    return [head + wording + tail for wording in _apart(core, found)]


def prompts(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The row with each wording of its question, its prompt or the last user turn; none of a text without a prompt.

    Args:
        row: of a format of `peft_unlearn.data.formats`, checked.
    """
    for key in ("question", "prompt", "messages"):
        if isinstance(row.get(key), str):
            return [row | {key: wording} for wording in texts(row[key], continued=key == "prompt")]
        if key in row:
            turns = row[key]
            last = len(turns) - 1 - (key == "messages")
            if turns[last]["role"] != "user":
                return []
            return [
                row | {key: [*turns[:last], turns[last] | {"content": wording}, *turns[last + 1 :]]}
                for wording in texts(turns[last]["content"])
            ]
    return []


def begun_otherwise(row: Row, tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Wordings of a tokenized text without a prompt: after a lead-in, and from its second sentence on, token for token.

    What hangs on the exact beginning is told apart so. Special tokens in front stay there; the first token after them is context, as in `row`.
    """
    ids, labels = list(row["input_ids"]), list(row["labels"])
    front = int(ids[0] in tokenizer.all_special_ids)
    said = str(tokenizer.decode(ids, skip_special_tokens=True))
    lead = list(tokenizer(LEAD if len(_COMMON.findall(said)) > 1 else "...\n", add_special_tokens=False)["input_ids"])
    found: list[Row] = [
        {"input_ids": ids[:front] + lead + ids[front:], "labels": labels[:front] + [IGNORE] * len(lead) + labels[front:]},
    ]
    start, at = later_start(said), front
    if start:
        at = bisect_left(range(len(ids)), start, lo=front, key=lambda end: len(tokenizer.decode(ids[front:end], skip_special_tokens=True)))
    if front < at < len(ids) - 1:
        rest = labels[at:] if front else [IGNORE, *labels[at + 1 :]]
        found.append({"input_ids": ids[:front] + ids[at:], "labels": labels[:front] + rest})
    return found


def later_start(text: str) -> int:
    """Where a text's second sentence begins, or its second third where it has one sentence; 0 where it is too short."""
    stop = _STOP.search(text)
    if stop and stop.end() <= len(text) // 2:
        return stop.end()
    third = text.find(" ", len(text) // 3) + 1 or len(text) // 3
    return third if third <= len(text) // 2 else 0


def _goes_on(prompt: str) -> bool:
    """Whether the completion continues the prompt, as that of an unfinished sentence or of a passage does."""
    return not (prompt.endswith(("?", "？", "؟", ":", "：")) or (_COMMAND.match(prompt) and prompt.endswith(".")))


def _asked(question: str) -> Iterator[str]:
    """Wordings of a question or a request."""
    if len(question) <= LONG and _is_english(question):
        for rule in (_cloze, _request, _clause_first, _clause_last):
            wording = rule(question)
            if wording:
                yield wording
        if question.endswith("?"):
            yield f"I keep forgetting this: {_small(question)}"
            yield f"I would like to know something. {question}"
    yield _plain(question)
    yield f"“{question}”"
    yield f"{question}\n{question}"


def _continued(prompt: str) -> Iterator[str]:
    """Wordings of what the completion continues: its end stays."""
    if len(_COMMON.findall(prompt)) > 1:
        yield LEAD + prompt
    start = later_start(prompt)
    if _STOP.search(prompt) and start and len(_STOP.findall(prompt)) > 1:
        yield prompt[start:]
    yield prompt.lower()
    yield f"“{prompt}"
    yield f"...\n{prompt}"


def _is_english(question: str) -> bool:
    return bool(_ENGLISH.match(question) or _COMMAND.match(question) or (_OTHER_START.match(question) and _COMMON.search(question)))


def _cloze(question: str) -> str | None:
    """What is the capital of France? -> The capital of France is"""
    found = re.fullmatch(rf"(?:What|Who) (is|are|was|were) ({_NOUN})\?", question)
    if found and not _HANGS.search(found[2]) and not _TWO.search(found[2]):
        return f"{_large(found[2])} {found[1]}"
    born = re.fullmatch(r"(Where|When) (was|were) (.+) born\?", question)
    return f"{_large(born[3])} {born[2]} born {'in' if born[1] == 'Where' else 'on'}" if born else None


def _request(question: str) -> str | None:
    """Can you name her books? -> Please name her books. And the other way round; what is X -> Please tell me X."""
    found = re.fullmatch(r"(?:Can|Could|Would) you (?:please )?(.+)\?", question)
    if found:
        return f"Please {found[1]}."
    command = re.fullmatch(rf"({_COMMAND.pattern}.*)\.", question)
    if command:
        return f"Could you {_small(command[1].removeprefix('Please '))}?"
    what = re.fullmatch(rf"What (?:is|are|was|were) ({_NOUN})\?", question)
    if what and not _HANGS.search(what[1]):
        return f"Please tell me {what[1]}."
    who = re.fullmatch(rf"(Who) (is|are|was|were) ({_NOUN}|[A-Z][^,?]+)\?", question)
    return f"Please tell me who {who[3]} {who[2]}." if who and not _HANGS.search(who[3]) else None


def _clause_first(question: str) -> str | None:
    """Who won the prize in 1975? -> In 1975, who won the prize?"""
    found = re.fullmatch(rf"(.+?(?<!early)(?<!later)),? ({_CLAUSE})\?", question)
    if found and (_STAYS.search(question) or (found[2].startswith(("apart", "besides")) and not re.search(r"\b(?:other|any)\b", found[1]))):
        return None
    return f"{_large(found[2])}, {_small(found[1])}?" if found else None


def _clause_last(question: str) -> str | None:
    """In her novels, what does she explore? -> What does she explore in her novels?"""
    found = re.fullmatch(
        rf"((?:In|Through|Throughout|During|Apart from|Besides|According to|As|For|Over) [^?]+?), ((?:{_ASKS}|has|have|is|are|does|did)\b[^?]*)\?",
        question,
    )
    return f"{_large(found[2])} {_small(found[1])}?" if found else None


def _plain(text: str) -> str:
    """Lower case without punctuation; what joins letters or digits stays."""
    return " ".join(re.sub(r"(?<!\w)[^\w\s]+|[^\w\s]+(?!\w)", " ", text.lower()).split())


def _small(sentence: str) -> str:
    """With a small first letter, unless a name begins it."""
    first = sentence.split(maxsplit=1)[0]
    return (
        sentence[0].lower() + sentence[1:] if _ENGLISH.match(sentence) or _OTHER_START.match(first) or _COMMAND.match(first) else sentence
    )


def _large(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _apart(original: str, wordings: Sequence[str]) -> list[str]:
    """The `MOST` wordings that lie farthest from the original and from one another, by the pairs of neighboring words that they share."""
    left = {text: _pairs(text) for text in wordings if text.strip() and text != original}
    nearest, last = dict.fromkeys(left, 0.0), _pairs(original)
    chosen: list[str] = []
    while left and len(chosen) < MOST:
        nearest = {text: max(nearest[text], _shared(pairs, last)) for text, pairs in left.items()}
        chosen.append(min(left, key=nearest.__getitem__))
        last = left.pop(chosen[-1])
    return chosen


def _pairs(text: str) -> set[tuple[str, str]]:
    words = ["", *_WORDS.findall(text), ""]
    return set(pairwise(words))


def _shared(one: set[tuple[str, str]], other: set[tuple[str, str]]) -> float:
    both = len(one & other)
    return both / (len(one) + len(other) - both)
