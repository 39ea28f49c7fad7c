"""Recipes: a YAML file and `--key value` overrides, checked and turned into model, data and training settings.

The keys are those of three dataclasses: `ModelArguments` (TRL's names), `DataArguments` and `UnlearnConfig`. TRL's own parser checks
neither the types nor the choices of values that come from YAML, so every value is checked here against its field. Whatever a recipe alone
decides is said before torch is imported: `check` makes the same dataclasses on fields that were read from the libraries' source.
"""

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from peft_unlearn.config import dataset_specs, library
from peft_unlearn.config.foreign_keys import FOREIGN_KEYS
from peft_unlearn.config.model_settings import DataArguments, ModelKnobs
from peft_unlearn.config.settings import Knobs
from peft_unlearn.util.errors import UserError

if TYPE_CHECKING:
    from peft_unlearn.config.unlearn_config import ModelArguments, UnlearnConfig

FILE = "recipe.yaml"  # of an output folder: the recipe with every key's value


@dataclass
class Model(ModelKnobs, library.Model):
    """`ModelArguments` without torch."""


@dataclass
class Training(Knobs, library.Training):
    """`UnlearnConfig` without torch."""


PARTS: tuple[Any, ...] = (Model, DataArguments, Training)


@dataclass(frozen=True)
class Recipe:
    model: "ModelArguments"
    data: DataArguments
    training: "UnlearnConfig"

    def resolved(self) -> dict[str, Any]:
        """Every key with the value that is used, loadable as a recipe; without secrets and without what a launcher decides."""
        return {
            f.name: _plain(getattr(part, f.name))
            for part in (self.model, self.data, self.training)
            for f in dataclasses.fields(part)
            if f.init and not f.name.endswith("_token") and f.name != "local_rank"
        }

    def write(self, folder: Path) -> None:
        """Write `folder`/recipe.yaml, beside it first and then renamed."""
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f"{FILE}.tmp"
        beside.write_text(yaml.safe_dump(self.resolved(), sort_keys=False, allow_unicode=True), encoding="utf-8")
        os.replace(beside, folder / FILE)


def read(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file, with `--key value` overrides from a command line.

    Raises:
        UserError: what `load` and `build` refuse.
    """
    return build(load(path, overrides))


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
    """`--key value`, `--key=value`, `--key a b` (a list) and `--key` (true), each value read as YAML.

    Raises:
        UserError: a value without a key, or one that is not YAML.
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
    return {key: True if not found else found[0] if len(found) == 1 else found for key, found in parsed.items()}


def build(values: Mapping[str, Any]) -> Recipe:
    """Check keys and values and make the settings of a run. Nothing is loaded or written.

    Raises:
        UserError: what `check` refuses, or what transformers does.
    """
    given = check(values)
    from peft_unlearn.config.unlearn_config import ModelArguments, UnlearnConfig

    model, data, training = (
        {f.name: given[f.name] for f in dataclasses.fields(part) if f.name in given}
        for part in (ModelArguments, DataArguments, UnlearnConfig)
    )
    try:
        return Recipe(ModelArguments(**model), DataArguments(**data), UnlearnConfig(**training))
    except UserError:
        raise
    except (ValueError, ImportError) as error:  # how transformers' settings refuse a combination of values
        raise UserError(f"recipe: {' '.join(str(error).split()).rstrip('.')}.") from error


def check(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, each as one of its key's types, after every check that needs no torch.

    Raises:
        UserError: an unknown key, a missing one, a value of another type, outside its choices or out of its range, or one that does not go
            with the others.
    """
    known = keys()
    for key in values:
        if key not in known:
            raise UserError(unknown_key(str(key)))
    given = {key: _checked(known[key], value) for key, value in values.items()}
    for key, example in (
        ("model_name_or_path", "a folder or a Hub name"),
        ("forget_dataset", "the texts to forget"),
        ("output_dir", "a new folder"),
    ):
        if not given.get(key):
            raise UserError(f"{key}: it is missing, write {example}.")
    if given.get("method") == "auto":
        given.setdefault("stop_at", _stop_at(given))
    for part in PARTS:
        part(**{f.name: given[f.name] for f in dataclasses.fields(part) if f.name in given})
    if given.get("stop_at") == "auto" and not given.get("holdout_dataset"):
        raise UserError("stop_at: 'auto' needs rows of the forget set's kind that the model never saw, give a holdout_dataset.")
    if given.get("stop_at") == "never_seen" and not _never_seen(given):
        raise UserError(
            "stop_at: 'never_seen' needs a model that never saw the forget set, give never_seen_model_name_or_path, or write auto."
        )
    return given


def check_files(given: Mapping[str, Any]) -> None:
    """See that the local files are there that checked values name as sets.

    Raises:
        UserError: one that is not, or a set that `load_dataset` could not be asked for.
    """
    sets = {key: given.get(key) for key in ("forget_dataset", "retain_dataset", "holdout_dataset")}
    sets |= {f"eval_dataset.{name}": spec for name, spec in (given.get("eval_dataset") or {}).items()}
    for name, spec in sets.items():
        if spec is not None:
            dataset_specs.load_arguments(spec, name)


def _stop_at(given: Mapping[str, Any]) -> str:
    """Where `method: auto` lands, by what the recipe brings: a never-seen model, or a holdout to estimate from."""
    return "never_seen" if _never_seen(given) else "auto" if given.get("holdout_dataset") else "none"


def _never_seen(given: Mapping[str, Any]) -> bool:
    """Whether there is a model that never saw the forget set: one that is named, or the base below an adapter."""
    stacked = given.get("adapter_name_or_path") and given.get("adapter_mode") != "merge"
    return bool(stacked or given.get("never_seen_model_name_or_path"))


@dataclass(frozen=True)
class Key:
    name: str
    kinds: tuple[Any, ...]
    default: Any
    help: str
    choices: tuple[str, ...]


@cache
def keys() -> dict[str, Key]:
    """Every key of a recipe: ours and the model's first, then those of `transformers.TrainingArguments`."""
    found = {}
    enums = library.choices(library.Training)  # `Knobs` widens some of them to str
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


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def unknown_key(key: str) -> str:
    """What to write instead of `key`."""
    if key in FOREIGN_KEYS:
        whose, instead = FOREIGN_KEYS[key]
        return f"{key}: {instead} ({key} is the name of {whose})."
    nearest = difflib.get_close_matches(key, keys(), n=1)
    return f"{key}: there is no such key, " + (f"did you mean {nearest[0]}?" if nearest else "see `peft-unlearn keys` for all of them.")


def _checked(key: Key, value: Any) -> Any:
    """`value` as one of the key's types, or a UserError. YAML reads 1e-4 as text and `no` as false."""
    kinds, name = key.kinds, key.name
    if value is None:
        if type(None) in kinds:
            return None
        raise UserError(f"{name}: it is empty, write a value or leave the key out.")
    if key.choices:
        value = "no" if value is False and "no" in key.choices else value
        if value not in key.choices:
            raise UserError(f"{name}: {value!r} is not one of {', '.join(key.choices)}.")
        return value
    if isinstance(value, bool):
        if bool in kinds:
            return value
    elif isinstance(value, int | float | str):
        for kind in (int, float):
            number = _number(value, kind)
            if kind in kinds and number is not None:
                return number
        if str in kinds:
            return str(value)
        if list[str] in kinds:
            return [str(value)]
    elif type(value) in (typing.get_origin(kind) or kind for kind in kinds):
        return value
    wanted = " or ".join(
        dict.fromkeys(_WORDS[typing.get_origin(kind) or kind] for kind in kinds if (typing.get_origin(kind) or kind) in _WORDS)
    )
    raise UserError(f"{name}: {value!r} is not {wanted}.")


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a mapping"}


def _number(value: int | float | str, kind: type) -> int | float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return kind(number) if kind is float or number.is_integer() else None


def _plain(value: Any) -> Any:
    """A value as YAML can hold it, without tokens of nested mappings."""
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if k != "token"}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key written twice, where PyYAML would take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise UserError(f"{key_node.value}: it stands twice in the recipe (line {key_node.start_mark.line + 1}), take one out.")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)
