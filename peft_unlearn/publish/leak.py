"""Whether files that are to be published hold texts of the forget set."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

RUN = 6  # words in a row: fewer are shared by chance ("what is the name of the")


def leaks(files: Mapping[str, str], rows: Iterable[Any]) -> dict[str, int]:
    """For each file that holds a text of the forget set, the number of the first row (from 0) that it holds text of.

    A text is found where `RUN` of its words stand in a row, or all of them where it has fewer, but at least three; case, punctuation and
    line breaks do not count.

    Args:
        files: texts by the name of their file.
        rows: of the forget set as they are read: texts, or mappings and lists that hold texts.
    """
    held = {name: f" {' '.join(_words(text))} " for name, text in files.items()}
    found: dict[str, int] = {}
    for number, row in enumerate(rows):
        for words in map(_words, _texts(row)):
            runs = [words[start : start + RUN] for start in range(max(len(words) - RUN, 0) + 1)] if len(words) >= 3 else []
            for name in held.keys() - found.keys():
                if any(f" {' '.join(run)} " in held[name] for run in runs):
                    found[name] = number
    return {name: found[name] for name in files if name in found}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _texts(row: Any) -> Iterator[str]:
    """Every text in a row, whatever its form."""
    if isinstance(row, str):
        yield row
    elif isinstance(row, Mapping):
        for value in row.values():
            yield from _texts(value)
    elif isinstance(row, list | tuple):
        for value in row:
            yield from _texts(value)
