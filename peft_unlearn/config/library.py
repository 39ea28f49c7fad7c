"""What transformers and TRL let a user set: fields of their dataclasses, read from their source, as importing either takes seconds for torch.

tests/test_startup.py holds what is read here to what the imported classes say.
"""

import ast
import builtins
import copy
import importlib
import importlib.util
import logging
import typing
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

logger = logging.getLogger(__name__)

# What their annotations and defaults name that is neither Python's nor an Enum of theirs.
GIVEN: dict[str, Any] = {
    "Any": Any,
    "Literal": Literal,
    "field": field,
    "ParallelismConfig": dict,  # an object, which a recipe could only write as a mapping
    "trainer_log_levels": dict.fromkeys(("detail", "debug", "info", "warning", "error", "critical", "passive")),
}


def declared(package: str, module: str, name: str) -> Any:
    """A dataclass with the fields of the class `name` in `package`.`module`: annotations, defaults and metadata, without its methods.

    Where the source cannot be read so (there is none, or a release writes it in another way), the class itself is imported, with a warning:
    all is as right as before, and errors take as long as torch.
    """
    try:
        spec = importlib.util.find_spec(package)  # of the top package: nothing is imported
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        path = Path(spec.origin).parent / f"{module.replace('.', '/')}.py"
        return _dataclass(path, name)
    except (OSError, SyntaxError, LookupError, NameError, AttributeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        logger.warning(
            "The fields of %s.%s.%s could not be read from its source (%s): errors of a recipe take longer to show.",
            package,
            module,
            name,
            reason,
        )
        return getattr(importlib.import_module(f"{package}.{module}"), name)


def choices(of: Any) -> dict[str, tuple[str, ...]]:
    """The values of each field that is an Enum."""
    found = {}
    for name, hint in typing.get_type_hints(of).items():
        for kind in (hint, *typing.get_args(hint)):
            if isinstance(kind, type) and typing.get_origin(kind) is None and issubclass(kind, Enum):  # list[...] is a type in Python 3.10
                found[name] = tuple(member.value for member in kind)
    return found


def _dataclass(path: Path, name: str) -> type:
    node = copy.copy(_class(path, name))
    node.body = [
        statement
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) or (isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant))
    ]
    node.bases, node.decorator_list = [], []
    stored = {found.id for found in ast.walk(node) if isinstance(found, ast.Name) and isinstance(found.ctx, ast.Store)}
    used = {found.id for found in ast.walk(node) if isinstance(found, ast.Name)} - stored - set(dir(builtins)) - set(GIVEN)
    namespace = {"__name__": __name__, **GIVEN, **{name: _enum(path, name) for name in sorted(used)}}
    exec(compile(ast.Module([node], []), path, "exec"), namespace)
    made: type = dataclass(namespace[name])
    return made


def _enum(path: Path, name: str) -> type[Enum]:
    """The Enum of that name, of this file or of the sibling that it is imported from."""
    for statement in _parsed(path).body:
        if isinstance(statement, ast.ImportFrom) and statement.level == 1 and name in (alias.name for alias in statement.names):
            path = path.parent / f"{(statement.module or '').replace('.', '/')}.py"
    members = {
        statement.targets[0].id: statement.value.value
        for statement in _class(path, name).body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name) and isinstance(statement.value, ast.Constant)
    }
    return cast(type[Enum], Enum(name, members, type=str))


def _class(path: Path, name: str) -> ast.ClassDef:
    for statement in _parsed(path).body:
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            return statement
    raise LookupError(f"there is no class {name}")


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


Training: Any = declared("transformers", "training_args", "TrainingArguments")
Model: Any = declared("trl", "trainer.model_config", "ModelConfig")
