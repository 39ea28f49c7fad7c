"""Recipes: a YAML file and `--key value` overrides, checked and turned into model, data and training settings.

The keys are those of three dataclasses: `ModelArguments` (TRL's names), `DataArguments` and `UnlearnConfig`. TRL's own parser checks
neither the types nor the choices of values that come from YAML, so every value is checked here against its field. Whatever a recipe alone
decides is said before torch is imported: `check` makes the same dataclasses on fields that were read from the libraries' source.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from peft_unlearn.config import dataset_specs, keys, reading
from peft_unlearn.config.model_settings import DataArguments
from peft_unlearn.util import disk
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.gguf import is_gguf, located
from peft_unlearn.util.redaction import is_local

if TYPE_CHECKING:
    from peft_unlearn.config.unlearn_config import ModelArguments, UnlearnConfig

FILE = "recipe.yaml"  # of an output folder: the recipe with every key's value


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
        """Write `folder`/recipe.yaml."""
        folder.mkdir(parents=True, exist_ok=True)
        disk.write_text(folder / FILE, yaml.safe_dump(self.resolved(), sort_keys=False, allow_unicode=True))


def read(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file, with `--key value` overrides from a command line.

    Raises:
        UserError: what `reading.load` and `build` refuse.
    """
    return build(reading.load(path, overrides))


def build(values: Mapping[str, Any]) -> Recipe:
    """Check keys and values and make the settings of a run. Nothing is loaded or written.

    Raises:
        UserError: what `check` refuses, or what transformers and TRL do.
    """
    given = check(values)
    from peft_unlearn.config.unlearn_config import ModelArguments, UnlearnConfig

    model, data, training = (
        {f.name: given[f.name] for f in dataclasses.fields(part) if f.name in given}
        for part in (ModelArguments, DataArguments, UnlearnConfig)
    )
    return Recipe(ModelArguments(**model), DataArguments(**data), UnlearnConfig(**training))


def check(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, each as one of its key's types, after every check that needs no torch.

    Raises:
        UserError: an unknown key, a missing one, a value of another type, outside its choices or out of its range, or one that does not go
            with the others.
    """
    given = _with_gguf(keys.read(values))
    for key, example in (
        ("model_name_or_path", "a folder, a GGUF file or a Hub name"),
        ("forget_dataset", "the texts to forget"),
        ("output_dir", "a new folder"),
    ):
        if not given.get(key) or not str(given[key]).strip():
            raise UserError(f"{key}: it is missing, write {example}.")
    if given.get("method") == "auto":
        given.setdefault("stop_at", _stop_at(given))
    for part in keys.PARTS:
        part(**{f.name: given[f.name] for f in dataclasses.fields(part) if f.name in given})
    if given.get("stop_at") == "auto" and not given.get("holdout_dataset"):
        raise UserError("stop_at: 'auto' needs rows of the forget set's kind that the model never saw, give a holdout_dataset.")
    if given.get("stop_at") == "never_seen" and not _never_seen(given):
        raise UserError(
            "stop_at: 'never_seen' needs a model that never saw the forget set, give never_seen_model_name_or_path, or write auto."
        )
    return given


def check_files(given: Mapping[str, Any]) -> None:
    """See that the local files are there that checked values name as sets and as a GGUF base.

    Raises:
        UserError: one that is not, a GGUF file without a language model, or a set that `load_dataset` could not be asked for.
    """
    if is_gguf(name := str(given.get("model_name_or_path"))) and is_local(name):
        located(name, key="model_name_or_path")
    sets = {key: given.get(key) for key in ("forget_dataset", "retain_dataset", "holdout_dataset")}
    sets |= {f"eval_dataset.{name}": spec for name, spec in (given.get("eval_dataset") or {}).items()}
    for name, spec in sets.items():
        if spec is not None:
            dataset_specs.load_arguments(spec, name)


def _with_gguf(given: dict[str, Any]) -> dict[str, Any]:
    """Values whose `gguf_file` stands behind its folder or repository, which is how a base is named from there on.

    Raises:
        UserError: it is the name of no GGUF file.
    """
    file, folder = given.pop("gguf_file", None), given.get("model_name_or_path")
    if file is None:
        return given
    if not is_gguf(file) or not folder or is_gguf(str(folder)):
        raise UserError(f"gguf_file: {file!r} must be the name of a .gguf file, in the folder or repository model_name_or_path.")
    return {**given, "model_name_or_path": f"{str(folder).rstrip('/')}/{file}"}


def _stop_at(given: Mapping[str, Any]) -> str:
    """Whose targets `method: auto` takes, by what the recipe brings: a never-seen model's, or an estimate from a holdout."""
    return "never_seen" if _never_seen(given) else "auto" if given.get("holdout_dataset") else "none"


def _never_seen(given: Mapping[str, Any]) -> bool:
    """Whether there is a model that never saw the forget set: one that is named, or the base below an adapter."""
    stacked = given.get("adapter_name_or_path") and given.get("adapter_mode") != "merge"
    return bool(stacked or given.get("never_seen_model_name_or_path"))


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


def written(folder: Path) -> dict[str, Any]:
    """The keys of the recipe that stands in an output folder; none where there is no recipe.

    Raises:
        UserError: it is no recipe.
    """
    path = folder / FILE
    return reading.load(path) if path.is_file() else {}


def known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a written recipe's values whose keys there are today, each as one of its key's types.

    Raises:
        UserError: a value that is none of its key's.
    """
    today = keys.keys()
    return keys.read({key: value for key, value in values.items() if key in today})
