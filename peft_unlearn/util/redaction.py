"""Names that may be published: the paths of the machine that trained stay at home."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft_unlearn.util.gguf import is_gguf, is_hub_name

TOKEN, BEHIND = re.compile(r"--\w*token"), re.compile(r"""(token["']?\s*[:=]\s*)[^\s,}]+""")
PATH = re.compile(r"([/~\\]|\.\.?[/\\]|[A-Za-z]:[/\\]).*\w")


def is_local(value: str) -> bool:
    """Whether a string is a path on this machine, and no Hub name."""
    if is_gguf(value) and not is_hub_name(value):
        return True
    return bool(PATH.match(value)) or (value.strip("/").count("/") > 0 and Path(value).exists())


def public_name(value: str) -> str:
    """A Hub name as it is, the last component of a local path."""
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if is_local(value) else value


def publish(data: Any, hidden: set[str], names: Mapping[str, str] | None = None) -> Any:
    """Nested mappings and lists with every local path cut to its last component, or to what `names` has; the paths are added to `hidden`."""
    if isinstance(data, dict):
        return {key: publish(value, hidden, names) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [publish(value, hidden, names) for value in data]
    if isinstance(data, str) and is_local(data):
        hidden.add(data)
        return (names or {}).get(data) or public_name(data)
    return data


def without_tokens(words: Sequence[str]) -> list[str]:
    """The words of a command line, with *** in place of each token: trackers write them down, and may upload them."""
    found = [BEHIND.sub(r"\1***", word) for word in words]
    return ["***" if TOKEN.fullmatch(before) else word for before, word in zip(["", *words], found, strict=False)]
