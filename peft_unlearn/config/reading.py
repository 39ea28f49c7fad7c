"""What stands in a YAML file and in `--key value` overrides, before it is checked."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from peft_unlearn.config.keys import keys
from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError

MOST = 100_000  # values of a YAML text: aliases can make billions of a few
DEEPEST = 100  # brackets: PyYAML's time grows with their square


def load(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The keys and values of a YAML file, with `--key value` overrides from a command line.

    Raises:
        UserError: a missing or malformed file, or a malformed override.
    """
    path = Path(path)
    with boundary(f"recipe: {str(path)!r} is not YAML text", "write the path of a file in UTF-8"):
        if not path.is_file():
            raise UserError(f"recipe: {path} does not exist.")
        text = path.read_text(encoding="utf-8")
    values = parsed(text, f"{path}:")
    if not isinstance(values, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys to values, for example `method: mean_teacher`.")
    return values | parse_overrides(overrides)


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`--key value`, `--key=value`, `--key a b` (a list) and, of a key that may be true, `--key`; each value read as YAML.

    Raises:
        UserError: a value without a key, a key without its value, or a value that is not YAML.
    """
    values: dict[str, list[str]] = {}
    key = None
    for argument in arguments:
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            key = key.replace("-", "_")
            values[key] = [value] if equals else []
        elif key is None:
            raise UserError(f"{argument}: a value without a key, write --key {argument}.")
        else:
            values[key].append(argument)
    read = {key: [parsed(text, f"--{key}") for text in texts] for key, texts in values.items()}
    return {key: found[0] if len(found) == 1 else found or _true(key) for key, found in read.items()}


def parsed(text: str, where: str) -> Any:
    """What YAML text says, without anything but mappings, lists, text, numbers, dates and true or false.

    Args:
        where: the beginning of a message: the key, or the file.

    Raises:
        UserError: it is not YAML, or a mapping in it has a key twice or one that is no text; a list or mapping that holds itself.
    """
    if max(accumulate((letter in "[{") - (letter in "]}") for letter in text), default=0) > DEEPEST:
        raise UserError(f"{where} this is not YAML of a recipe, its brackets are more than {DEEPEST} deep; close them.")
    try:
        with boundary(f"{where} this is not YAML", "quote the value, or mend the file"):
            values = yaml.load(text, Loader=_UniqueKeys)
            _entries(values, {})
            return values
    except UserError as error:
        if isinstance(cause := error.__cause__, yaml.MarkedYAMLError):
            line = cause.problem_mark.line + 1 if cause.problem_mark else 1
            raise UserError(f"{where} line {line} is not YAML ({cause.problem}), quote the value or mend it.") from cause
        raise


def _entries(value: Any, counted: dict[int, int]) -> int:
    """How many values a value holds, what an alias repeats counted each time.

    Raises:
        ValueError: more than `MOST`, or a value that holds itself.
    """
    if not isinstance(value, dict | list | tuple | set):
        return 1
    if id(value) not in counted:
        counted[id(value)] = MOST  # until it is known: whatever holds itself is as large
        counted[id(value)] = 1 + sum(_entries(one, counted) for one in (value.values() if isinstance(value, dict) else value))
    if counted[id(value)] > MOST:
        raise ValueError(f"it holds itself, or more than {MOST} values")
    return counted[id(value)]


def _true(name: str) -> bool:
    """What `--key` without a value stands for.

    Raises:
        UserError: the key is not true or false; one that is unknown is refused later.
    """
    key = keys().get(name)
    if key is not None and (key.choices or bool not in key.kinds):
        wanted = f"one of {', '.join(key.choices)}" if key.choices else key.wanted
        raise UserError(f"{name}: its value is missing, write {wanted} after --{name}.")
    return True


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key written twice, where PyYAML would take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"recipe: a key in line {line} is a list or a mapping, write text.")
            if key_node.value in seen:
                raise UserError(f"{key_node.value}: it stands twice in the recipe (line {line}), take one out.")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)
