"""A merged folder, loaded as anyone would load it, beside the numbers of its adapter."""

import argparse
import dataclasses
import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig
from trl import get_quantization_config

from peft_unlearn import report
from peft_unlearn.cli import evaluate as command
from peft_unlearn.config.unlearn_config import ModelArguments
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import read_json
from peft_unlearn.workflows import evaluate as evaluation
from peft_unlearn.workflows import requests

logger = logging.getLogger(__name__)

REPORT = "report.json"


def trained_on(settings: Mapping[str, Any]) -> tuple[BitsAndBytesConfig | None, torch.dtype | None] | None:
    """How the base was quantised in training and the dtype that it was loaded in, by the keys of a run's recipe; None without a recipe."""
    if not settings:
        return None
    model = ModelArguments(**{f.name: settings[f.name] for f in dataclasses.fields(ModelArguments) if f.init and f.name in settings})
    config = get_quantization_config(model)
    return config, getattr(torch, str(model.dtype)) if config else None


def evaluate(folder: Path, adapter: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate the merged `folder` on the sets of the adapter's recipe, and write its report.json.

    The view "after" is the merged folder, "adapter" what the adapter's own report has there; "before" and "never_seen" are taken over from it,
    but of no set that the report has on other rows.

    Raises:
        UserError: the recipe names no sets, or one that is not there.
    """
    if not settings.get("forget_dataset"):
        raise UserError(f"forget_dataset: no recipe.yaml in {adapter} names the sets.")
    reported = read_json(adapter / REPORT) if (adapter / REPORT).is_file() else {"results": {}, "never_seen": {}}
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    parser.set_defaults(command="evaluate")
    job = evaluation.plan(requests.read(parser.parse_args(_arguments(folder, settings))))
    views, facts = evaluation.measure_views(job)
    job.benchmark.compare(views, job.how)
    taken = {name: found for name, found in reported["results"].items() if _same_rows(found, views["after"].get(name, {}))}
    if left_out := [name for name in reported["results"] if name in views["after"] and name not in taken]:
        logger.warning(
            "Warning: %s has other rows of %s than recipe.yaml says, so its columns are left out there; to have them, evaluate or audit the "
            "adapter again without --rows, and then merge.",
            adapter / REPORT,
            ", ".join(left_out),
        )
    results: dict[str, Any] = {}
    for name, found_now in views["after"].items():
        found = taken.get(name, {})
        before = {view: found[source] for view, source in (("before", "before"), ("adapter", "after")) if source in found}
        never_seen = {view: found[view] for view in ("never_seen",) if view in found}
        results[name] = {**before, "after": found_now, **never_seen}
    shown = any("never_seen" in of_set for of_set in results.values())
    made = report.build(results, run=facts, never_seen=reported["never_seen"] if shown else None, definitions=job.how.definitions)
    report.write(made, folder / REPORT)
    return made


def _same_rows(found: Mapping[str, Mapping[str, Any]], evaluation: Mapping[str, Any]) -> bool:
    """Whether the views of a report's set have as many rows of every metric as an evaluation has."""
    shared = ((of_view[metric], evaluation[metric]) for of_view in found.values() for metric in of_view.keys() & evaluation.keys())
    return all(len(one["rows"]) == len(other["rows"]) for one, other in shared)


def by_hand(folder: Path, settings: Mapping[str, Any]) -> str:
    """How to evaluate the merged `folder` where its sets were not there."""
    if not settings.get("forget_dataset"):
        return f"Give them: peft-unlearn evaluate {shlex.quote(str(folder))} --forget FILE --retain FILE"
    words = ["peft-unlearn", "evaluate", *_arguments(folder, settings), "--output", str(folder / REPORT)]
    return f"The command for it is {shlex.join(words)}"


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
