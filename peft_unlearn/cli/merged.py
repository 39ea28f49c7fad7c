"""A merged folder, loaded as anyone would load it, beside the numbers of its adapter."""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig
from trl import get_quantization_config

from peft_unlearn.cli import asked, evaluating
from peft_unlearn.cli import evaluate as command
from peft_unlearn.config import ModelArguments
from peft_unlearn.errors import UserError
from peft_unlearn.evaluation import report
from peft_unlearn.folders import read_json

REPORT = "report.json"


def trained_on(settings: Mapping[str, Any]) -> tuple[BitsAndBytesConfig, torch.dtype] | None:
    """How the base was quantised in training, and the dtype in which it was loaded, by the keys of a run's recipe; None where it was not."""
    model = ModelArguments(**{f.name: settings[f.name] for f in dataclasses.fields(ModelArguments) if f.init and f.name in settings})
    config = get_quantization_config(model)
    return None if config is None else (config, getattr(torch, str(model.dtype)))


def evaluate(folder: Path, adapter: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate the merged `folder` on the sets of the adapter's recipe, and write its report.json.

    The view "after" is the merged folder, "adapter" what the adapter's own report has there; "before" and "never_seen" are taken over from it.

    Raises:
        UserError: the recipe names no sets, or one that is not there.
    """
    if not settings.get("forget_dataset"):
        raise UserError(f"forget_dataset: no recipe.yaml in {adapter} names the sets.")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    parser.set_defaults(command="evaluate")
    job = evaluating.plan(asked.read(parser.parse_args(_arguments(folder, settings))))
    views, facts = evaluating.measure_views(job)
    job.benchmark.compare(views, job.how)
    reported = read_json(adapter / REPORT) if (adapter / REPORT).is_file() else {"results": {}, "never_seen": {}}
    results: dict[str, Any] = {}
    for name, evaluation in views["after"].items():
        found = reported["results"].get(name, {})
        before = {view: found[source] for view, source in (("before", "before"), ("adapter", "after")) if source in found}
        never_seen = {view: found[view] for view in ("never_seen",) if view in found}
        results[name] = {**before, "after": evaluation, **never_seen}
    made = report.build(results, run=facts, never_seen=reported["never_seen"], definitions=job.how.definitions)
    report.write(made, folder / REPORT)
    return made


def _arguments(folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """The options of `peft-unlearn evaluate` for the sets of a recipe, the weights in the type that they were written in."""
    words = [str(folder)]
    for option, key in (("--rows", "eval_rows"), ("--batch-size", "per_device_eval_batch_size")):
        words += [option, str(settings[key])] if key in settings else []
    for name in ("forget", "retain", "holdout"):
        if found := settings.get(f"{name}_dataset"):
            words += [f"--{name}", found if isinstance(found, str) else json.dumps(found)]
    keys = {key: settings[key] for key in ("max_length", "eval_dataset", "chat_template_kwargs") if settings.get(key)}
    return [*words, "--set", "dtype=auto", *(f"{key}={json.dumps(value)}" for key, value in keys.items())]
