"""What `evaluate` and `audit` are asked for: their options over the recipe of the run, as a recipe's keys. Checked before torch is imported."""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from peft_unlearn.config import keys, reading, recipe
from peft_unlearn.config.model_settings import DataArguments
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import ADAPTER_CONFIG, check_writable, locate, read_json

FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", recipe.FILE]


@dataclass(frozen=True)
class Asked:
    """The options, the folder of the model that they name, and the recipe that both make."""

    options: argparse.Namespace
    folder: Path
    is_adapter: bool
    values: dict[str, Any]


def read(options: argparse.Namespace) -> Asked:
    """Check options, and the recipe that they make with what stands in the model's folder.

    Raises:
        UserError: no such model, options that do not go together, or what `recipe.check` and `recipe.check_files` refuse.
    """
    folder = locate(options.model, FILES, key="model")
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    values = _values(options, folder, is_adapter)
    if options.benchmark:
        for option in ("forget", "retain", "holdout"):
            if getattr(options, option) is not None:
                raise UserError(f"{option}: the sets are those of the benchmark {options.benchmark}, leave --{option} out.")
        if options.rows is not None and options.rows < 0:
            raise UserError(f"rows: {options.rows} is out of range, write a value of at least 0.")
        # of a recipe only the model counts: its sets are another evaluation's
        values |= {"forget_dataset": options.benchmark, "retain_dataset": None, "holdout_dataset": None, "eval_dataset": None}
    for option in ("data", "split"):
        if not options.benchmark and getattr(options, option) is not None:
            raise UserError(f"{option}: it belongs to a benchmark, write --benchmark NAME as well, or leave it out.")
    if not values.get("forget_dataset"):
        raise UserError(f"forget: no recipe.yaml in {options.model} names a forget set, write --forget FILE or --benchmark NAME.")
    if options.samples < 0:
        raise UserError(f"samples: {options.samples} is out of range, write a value of at least 0.")
    if options.output:
        check_report(Path(options.output))
    values = recipe.check({**values, "output_dir": str(folder)})
    if not options.benchmark:
        recipe.check_files(values)
    return Asked(options, folder, is_adapter, values)


def check_report(path: Path) -> None:
    """See that a report can be written at `path`, and its page beside it.

    Raises:
        UserError: it is a folder, or lies in one that may not be written.
    """
    if path.is_dir():
        raise UserError(f"output: {path} is a folder, write a file, such as {path / 'report.json'}.")
    check_writable(path, key="output")


def _values(options: argparse.Namespace, folder: Path, is_adapter: bool) -> dict[str, Any]:
    """Recipe keys: what the run's own recipe says, and what the options say instead."""
    values: dict[str, Any] = {"model_name_or_path": str(folder)}
    if is_adapter:
        own = {f.name for part in (keys.Model, DataArguments) for f in dataclasses.fields(part)}
        own |= {"max_length", "chat_template_kwargs", "per_device_eval_batch_size"}
        written = folder / recipe.FILE
        settings = yaml.safe_load(written.read_text(encoding="utf-8")) if written.is_file() else {}
        base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        values = {"model_name_or_path": base} | {key: settings[key] for key in settings.keys() & own}
    elif options.base:
        raise UserError(f"base: {options.model} is a whole model and no adapter, leave --base out.")
    values |= reading.parse_overrides([f"--{pair}" for pair in options.set])
    said = {
        "base": "model_name_or_path",
        "forget": "forget_dataset",
        "retain": "retain_dataset",
        "holdout": "holdout_dataset",
        "rows": "eval_rows",
    }
    for option, key in {**said, "batch_size": "per_device_eval_batch_size"}.items():
        if getattr(options, option) is not None:
            values[key] = _spec(getattr(options, option))
    return values


def _spec(value: Any) -> Any:
    """A set as a YAML mapping, or any other value as it is."""
    return yaml.safe_load(value) if isinstance(value, str) and value.startswith("{") else value
