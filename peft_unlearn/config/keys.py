"""The keys of a recipe: their types, and the check of one value against its key."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from peft_unlearn.config import library
from peft_unlearn.config.foreign_keys import FOREIGN_KEYS
from peft_unlearn.config.model_settings import DataArguments, ModelSettings
from peft_unlearn.config.settings import TrainingSettings
from peft_unlearn.config.validation import check_choice
from peft_unlearn.util.errors import UserError

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a mapping"}


@dataclass
class Model(ModelSettings, library.Model):  # type: ignore[misc]  # made from source
    """`ModelArguments` without torch."""


@dataclass
class Training(TrainingSettings, library.Training):  # type: ignore[misc]
    """`UnlearnConfig` without torch."""


PARTS: tuple[Any, ...] = (Model, DataArguments, Training)


@dataclass(frozen=True)
class Key:
    """A key of a recipe. Without `choices`, its values are of one of the `kinds`."""

    name: str
    kinds: tuple[Any, ...]
    default: Any
    help: str
    choices: tuple[str, ...]

    def read(self, value: Any) -> Any:
        """`value` as one of the key's types. YAML reads 1e-4 as text and `no` as false.

        Raises:
            UserError: it is none of them.
        """
        if value is None:
            if type(None) in self.kinds:
                return None
            raise UserError(f"{self.name}: it is empty, write a value or leave the key out.")
        if self.choices:
            value = "no" if value is False and "no" in self.choices else value
            check_choice(self.name, value, self.choices)
            return value
        if isinstance(value, bool):
            if bool in self.kinds:
                return value
        elif isinstance(value, int | float | str):
            for kind in (int, float):
                number = _number(value, kind)
                if kind in self.kinds and number is not None:
                    return number
            if str in self.kinds:
                return str(value)
            if list[str] in self.kinds:
                return [str(value)]
        elif type(value) in (typing.get_origin(kind) or kind for kind in self.kinds):
            return value
        raise UserError(f"{self.name}: {value!r} is not {self.wanted}.")

    @property
    def wanted(self) -> str:
        """What its values are, in words."""
        kinds = (typing.get_origin(kind) or kind for kind in self.kinds)
        return " or ".join(dict.fromkeys(_WORDS[kind] for kind in kinds if kind in _WORDS))


@cache
def keys() -> dict[str, Key]:
    """Every key of a recipe: ours and the model's first, then those of `transformers.TrainingArguments`."""
    found = {}
    enums = library.choices(library.Training)  # `TrainingSettings` widens some of them to str
    for part in PARTS:
        hints = typing.get_type_hints(part)
        for f in dataclasses.fields(part):
            if f.init:
                # true is the last checkpoint; HfArgumentParser has no word for a type that is either
                kinds = _kinds(bool | str | None if f.name == "resume_from_checkpoint" else hints[f.name])
                default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
                help_text = " ".join(str(f.metadata.get("help", "")).replace("%%", "%").split())  # as argparse would show it
                choices = enums.get(f.name) or tuple(f.metadata.get("choices", ()))
                found[f.name] = Key(f.name, kinds, default, help_text, choices)
    return found


def read(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, each as one of its key's types.

    Raises:
        UserError: an unknown key, or a value that is none of its key's.
    """
    for key in values:
        if key not in keys():
            raise UserError(unknown(str(key)))
    return {key: keys()[key].read(value) for key, value in values.items()}


def unknown(key: str) -> str:
    """What to write instead of `key`."""
    if key in FOREIGN_KEYS:
        whose, instead = FOREIGN_KEYS[key]
        return f"{key}: {instead} ({key} is the name of {whose})."
    nearest = difflib.get_close_matches(key, keys(), n=1)
    return f"{key}: there is no such key, " + (f"did you mean {nearest[0]}?" if nearest else "see `peft-unlearn keys` for all of them.")


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _number(value: int | float | str, kind: type) -> int | float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return kind(number) if kind is float or number.is_integer() else None
