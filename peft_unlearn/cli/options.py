"""Options that are fields of a request: names, help, defaults and choices are the field's."""

import argparse
import dataclasses
from typing import Any, TypeVar

from peft_unlearn.workflows.requests import Request, option

R = TypeVar("R", bound=Request)


def add(parser: Any, request: type[Request], name: str, **how: Any) -> None:
    """Add a field of a request to a parser, or to a group of one: by its place if it has no default, else as an option.

    Args:
        how: what `argparse` is told besides, or instead.
    """
    (f,) = (f for f in dataclasses.fields(request) if f.name == name)
    how = {"help": f.metadata["help"], **how}
    if f.metadata.get("choices"):
        how.setdefault("choices", f.metadata["choices"])
    if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
        parser.add_argument(name, **how)
        return
    if isinstance(f.default, bool):
        how["action"] = "store_false" if f.default else "store_true"
    elif isinstance(f.default, str | int | tuple) and f.default != ():
        shown = ", ".join(f.default) if isinstance(f.default, tuple) else f.default
        how["help"] += f" (default {shown})"
    parser.add_argument(f"--{option(f)}", dest=name, default=argparse.SUPPRESS, **how)


def made(options: argparse.Namespace, request: type[R], **instead: Any) -> R:
    """The request that options make; what was not given is left to its defaults."""
    given = {f.name: getattr(options, f.name) for f in dataclasses.fields(request) if f.name in options}
    return request(**{**given, **instead})
