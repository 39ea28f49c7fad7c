"""The keys of a recipe: their types, and the check of one value against its key."""

import dataclasses
import difflib
import math
import os
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

MOST = 2**32 - 1  # of a whole number: what a seed may be

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
            UserError: it is none of them, or a number, name or entry that cannot be anyone's.
        """
        self._check_plain(value)
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
            if str in self.kinds and self._may_be(value):
                return str(value)
            if list[str] in self.kinds:
                return [str(value)]
        elif type(value) in (typing.get_origin(kind) or kind for kind in self.kinds):
            self._check_entries(value)
            return value
        raise UserError(f"{self.name}: {self._shown(value)} is not {self.wanted}.")

    def _shown(self, value: Any) -> str:
        """A value as a message says it; a token stays what nobody reads."""
        return "its value" if self.name.endswith("_token") else repr(value)

    def _check_plain(self, value: Any) -> None:
        """Refuse what is no one's value: control characters in a name, numbers that are not finite or that no counter holds."""
        if isinstance(value, str):
            if not value.isprintable():
                raise UserError(f"{self.name}: {self._shown(value)} holds a character that cannot be printed, write it without.")
            if not value.strip() and self.name.endswith(("_name_or_path", "_dataset", "_dir", "attn_implementation", "_revision")):
                raise UserError(f"{self.name}: it is empty, write a value or leave the key out.")
        if isinstance(value, bool) or not isinstance(value, int | float | str) or self.choices or str in self.kinds:
            return
        number = _number(value, float)
        if number is None:
            return
        if not math.isfinite(number):
            raise UserError(f"{self.name}: {value!r} is out of range, write a finite number.")
        if int in self.kinds and abs(number) > MOST:
            raise UserError(f"{self.name}: {value!r} is out of range, write a whole number up to {MOST}.")

    def _may_be(self, value: int | float | str) -> bool:
        """Whether text may stand for a mapping: as JSON, or as a file of it; a set of texts has a name."""
        named = dict not in (typing.get_origin(kind) or kind for kind in self.kinds) or self.name.endswith("_dataset")
        return named or str(value).lstrip().startswith("{") or os.path.isfile(str(value))  # which a name that is none does not make fail

    def _check_entries(self, value: Any) -> None:
        """See that a list has entries of its kind, and a mapping text for keys."""
        if isinstance(value, list):
            for one in value:
                if list[str] in self.kinds and (not isinstance(one, str) or not one.strip()):
                    raise UserError(f"{self.name}: {one!r} in its list is not text, write names.")
        for one in value if isinstance(value, dict) else ():
            if not isinstance(one, str):
                raise UserError(f"{self.name}: {one!r} in it is a key and not text, write a name.")

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
                choices = enums.get(f.name) or tuple(f.metadata.get("choices", ()))
                found[f.name] = Key(f.name, kinds, default, _help(f), choices)
    return found


def groups() -> dict[str, list[Key]]:
    """Every key in one of four groups: ours first, and last those that TRL and transformers declare and help with in the same words."""
    names = {Model: "model and adapter", DataArguments: "data", Training: "unlearning"}
    found: dict[str, list[Key]] = {name: [] for name in (*names.values(), "of transformers and TRL")}
    for part, group in names.items():
        for f in dataclasses.fields(part):
            if f.init:
                found[group if _is_ours(f.name) else "of transformers and TRL"].append(keys()[f.name])
    return found


def _is_ours(name: str) -> bool:
    theirs = next(
        (part.__dataclass_fields__[name] for part in (library.Model, library.Training) if name in part.__dataclass_fields__), None
    )
    return theirs is None or keys()[name].help != _help(theirs)


def _help(f: Any) -> str:
    return " ".join(str(f.metadata.get("help", "")).replace("%%", "%").split())  # as argparse would show it


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
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf if kind is float else int(value)
    return kind(number) if kind is float or number.is_integer() else None
