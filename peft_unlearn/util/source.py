"""What stands in a Python file about its decorated functions, read without importing it."""

import ast
import importlib.util
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Marked:
    """A function under a decorator: the decorator's keywords, the first sentence of the docstring, positional parameters, keyword-only defaults."""

    function: str
    keywords: Mapping[str, Any]
    help: str
    positional: tuple[str, ...]
    defaults: Mapping[str, Any]


def marked(text: str, decorator: str) -> list[Marked]:
    """The functions of a source that stand under `@decorator(...)`, in their order.

    Raises:
        SyntaxError: it is not Python.
        ValueError: an argument of the decorator, or a default, is no literal, or a keyword-only parameter has no default.
    """
    return [
        _marked(node, call)
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef)
        for call in node.decorator_list
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == decorator
    ]


def of_module(module: str) -> str:
    """The source of a module, without importing it or its parents.

    Raises:
        ImportError: there is no such module.
        OSError: it has no source that can be read.
    """
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)  # of the top package alone: nothing is imported
    if spec is None:
        raise ImportError(f"no module named {top!r}")
    places = spec.submodule_search_locations
    if not rest:
        return Path(spec.origin or "").read_text(encoding="utf-8")
    for place in places or ():
        path = Path(place).joinpath(*rest)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file.read_text(encoding="utf-8")
    raise ImportError(f"no module named {module!r}")


def _marked(node: ast.FunctionDef, call: ast.Call) -> Marked:
    defaults = {}
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        if default is None:
            raise ValueError(f"{node.name}: the keyword {argument.arg} has no default")
        defaults[argument.arg] = _literal(default, node.name)
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError(f"{node.name}: write the decorator's arguments as keyword=value")
    return Marked(
        function=node.name,
        keywords={str(keyword.arg): _literal(keyword.value, node.name) for keyword in call.keywords},
        help=_first_sentence(ast.get_docstring(node) or ""),
        positional=tuple(argument.arg for argument in (*node.args.posonlyargs, *node.args.args)),
        defaults=defaults,
    )


def _literal(node: ast.expr, function: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(f"{function}: write a literal in place of {ast.unparse(node)}") from error


def _first_sentence(docstring: str) -> str:
    """Of its first paragraph, on one line."""
    paragraph = " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) (?=[A-Z])", paragraph)[0]
