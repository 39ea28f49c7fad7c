"""Docstrings are plain text with the sections of Google's style. Before reStructuredText reads them, what it would take for markup is escaped."""

import re
from typing import Any

from sphinx.application import Sphinx

MARKUP = re.compile(r"(?<!\\)([*|]|(?<=\w)_(?!\w))")


def escape(line: str) -> str:
    """A line with markup escaped outside of backticks, which become literals."""
    pieces = re.split(r"(`+[^`]*`+)", line)
    return "".join(f"``{piece.strip('`')}``" if piece.startswith("`") else MARKUP.sub(r"\\\1", piece) for piece in pieces)


def plain(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape a docstring; an indented block without a section's head before it is a literal one."""
    made: list[str] = []
    literal = False
    for line in lines:
        indented = line.startswith("    ")
        if literal and (indented or not line):
            made.append(line)
            continue
        literal = False
        if indented and made and not made[-1] and not _in_section(made):
            literal = True
            made += ["::", "", line]
        else:
            made.append(line if line.lstrip().startswith(">>>") else escape(line))
    lines[:] = made


def _in_section(lines: list[str]) -> bool:
    """Whether the last line that is not indented heads a section."""
    heads = [line for line in lines if line and not line.startswith(" ")]
    return bool(heads) and heads[-1] in {"Args:", "Returns:", "Raises:", "Attributes:", "Yields:", "Note:"}


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", plain, priority=100)  # before napoleon
    return {"parallel_read_safe": True}
