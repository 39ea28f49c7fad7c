"""What stands in a YAML file and in `--key value` overrides, before it is checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from peft_unlearn.config.keys import keys
from peft_unlearn.util.errors import UserError


def load(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The keys and values of a YAML file, with `--key value` overrides from a command line.

    Raises:
        UserError: a missing or malformed file, or a malformed override.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"recipe: {path} does not exist.")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}: line {line} is not YAML ({error.problem}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: this is not YAML text in UTF-8.") from error
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
    try:
        parsed = {key: [yaml.safe_load(text) for text in texts] for key, texts in values.items()}
    except yaml.YAMLError as error:
        raise UserError(f"{' '.join(arguments)}: a value is not YAML, quote it.") from error
    return {key: found[0] if len(found) == 1 else found or _true(key) for key, found in parsed.items()}


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
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise UserError(f"{key_node.value}: it stands twice in the recipe (line {key_node.start_mark.line + 1}), take one out.")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)
