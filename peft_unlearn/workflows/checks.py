"""A request checked, before torch is imported: options, files and the recipe that they make."""

import dataclasses
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_unlearn.config import keys, reading, recipe
from peft_unlearn.config.model_settings import DataArguments
from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import ADAPTER_CONFIG, check_base, check_writable, locate, read_json
from peft_unlearn.util.ranges import Range, check_number
from peft_unlearn.workflows.requests import AskRequest, AuditRequest, EvaluateRequest, TrainRequest

logger = logging.getLogger(__name__)

FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", recipe.FILE]
KEYS = {
    "base": "model_name_or_path",
    "forget": "forget_dataset",
    "retain": "retain_dataset",
    "holdout": "holdout_dataset",
    "rows": "eval_rows",
    "batch_size": "per_device_eval_batch_size",
}


def say_loading() -> None:
    """Say what the next seconds go into, so that a command is heard within one: it is checked by now, and its libraries are not there yet."""
    if "torch" not in sys.modules:
        logger.info("Loading torch and transformers …")


@dataclass(frozen=True)
class Checked:
    """A request, the folder of the model that it names, and the recipe that it makes with what stands there."""

    request: EvaluateRequest | AuditRequest
    folder: Path
    is_adapter: bool
    values: dict[str, Any]


def recipe_values(request: TrainRequest) -> dict[str, Any]:
    """The keys and values of a recipe, checked.

    Raises:
        UserError: what `reading.load` and `recipe.check` refuse.
    """
    given = request.recipe if isinstance(request.recipe, Mapping) else reading.load(request.recipe)
    return recipe.check(_plain({**given, **request.overrides}))


def checked_recipe(request: TrainRequest) -> dict[str, Any]:
    """The keys and values of a recipe whose files are there.

    Raises:
        UserError: what `recipe_values` and `recipe.check_files` refuse.
    """
    values = recipe_values(request)
    recipe.check_files(values)
    return values


def measured(request: EvaluateRequest | AuditRequest) -> Checked:
    """Check options, and the recipe that they make with what stands in the model's folder.

    Raises:
        UserError: no such model, options that do not go together, or what `recipe.check` and `recipe.check_files` refuse.
    """
    folder = locate(request.model, FILES, key="model")
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    values = _values(request, folder, is_adapter)
    if request.benchmark:
        _check_benchmark(request)
        # of a recipe only the model counts: its sets are another evaluation's
        values |= {"forget_dataset": request.benchmark, "retain_dataset": None, "holdout_dataset": None, "eval_dataset": None}
    for name in ("data", "split"):
        if not request.benchmark and getattr(request, name) is not None:
            raise UserError(f"{name}: it belongs to a benchmark, write --benchmark NAME as well, or leave it out.")
    if not values.get("forget_dataset"):
        raise UserError(f"forget: no recipe.yaml in {request.model} names a forget set, write --forget FILE or --benchmark NAME.")
    if isinstance(request, EvaluateRequest):
        check_number("samples", request.samples, Range("from 0 to 10000"), whole=True)
    if request.output is not None:
        _check_report(Path(request.output))
    values = recipe.check({**values, "output_dir": str(folder)})
    if not request.benchmark:
        recipe.check_files(values)
    return Checked(request, folder, is_adapter, values)


def loaded(request: AskRequest) -> Checked:
    """Check what is said of a model alone: no set is read, and those that stand in its folder need not be there.

    Raises:
        UserError: no such model, or options that do not go together.
    """
    asked = EvaluateRequest(request.model, base=request.base, never_seen=request.never_seen, settings=request.settings)
    folder = locate(request.model, FILES, key="model")
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    none = dict.fromkeys(("retain_dataset", "holdout_dataset", "eval_dataset", "group_column"))
    values = {**_values(asked, folder, is_adapter), **none, "forget_dataset": "none is read"}
    return Checked(asked, folder, is_adapter, recipe.check({**values, "output_dir": str(folder)}))


def new_folder(output: str | Path) -> None:
    """See that a folder is free to be written.

    Raises:
        UserError: something is there already.
    """
    output = Path(output)
    with boundary(f"output: {str(output)!r} is no name of a folder", "give another name"):
        output.exists()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"output: {output} is there already and is not an empty folder; give another name.")


def _check_benchmark(request: EvaluateRequest | AuditRequest) -> None:
    for name in ("forget", "retain", "holdout"):
        if getattr(request, name) is not None:
            raise UserError(f"{name}: the sets are those of the benchmark {request.benchmark}, leave --{name} out.")
    if request.rows is not None and request.rows < 0:
        raise UserError(f"rows: {request.rows} is out of range, write a value of at least 0.")


def _check_report(path: Path) -> None:
    """See that a report can be written at `path`, and its page beside it.

    Raises:
        UserError: it is a folder, or lies in one that may not be written.
    """
    with boundary(f"output: {str(path)!r} cannot be written", "write another file, such as report.json"):
        if path.is_dir():
            raise UserError(f"output: {path} is a folder, write a file, such as {path / 'report.json'}.")
        if path.exists() and not path.is_file():
            raise UserError(f"output: {path} is a device or a pipe, which would be replaced; write a file, such as report.json.")
        path.with_name(path.name + ".tmp").exists()  # which asks the system whether it is a name
        check_writable(path, key="output")
    if path.suffix == ".html":
        raise UserError(
            f"output: {path} is the name of a page, write the report's, such as {path.with_suffix('.json')}; the page lies beside it."
        )
    if path.is_file() and not _is_report(path):
        raise UserError(f"output: {path} is there and no report, write another name, or remove it.")


def _is_report(path: Path) -> bool:
    try:
        return "results" in read_json(path)
    except UserError:
        return False


def _values(request: EvaluateRequest | AuditRequest, folder: Path, is_adapter: bool) -> dict[str, Any]:
    """Recipe keys: what the run's own recipe says, and what the request says instead."""
    values: dict[str, Any] = {"model_name_or_path": str(folder)}
    if is_adapter:
        own = {f.name for part in (keys.Model, DataArguments) for f in dataclasses.fields(part)}
        own |= {"max_length", "chat_template_kwargs", "per_device_eval_batch_size"}
        if request.holdout is None:
            own.add("holdout_kl")  # the rows that a run held where they were say nothing of unseen text afterwards either
        settings = recipe.written(folder)
        base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        values = {"model_name_or_path": base} | {key: settings[key] for key in settings.keys() & own}
    elif request.base:
        raise UserError(f"base: {request.model} is a whole model and no adapter, leave --base out.")
    said = {key: getattr(request, name) for name, key in KEYS.items() if getattr(request, name) is not None}
    values |= _plain({**request.settings, **said})
    if is_adapter:
        check_base(values["model_name_or_path"], request.model)
    return values


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a recipe from Python, where a name may be a path."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
