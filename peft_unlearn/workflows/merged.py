"""A merged folder, loaded as anyone would load it, beside the numbers of its adapter."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig
from trl import get_quantization_config  # type: ignore[attr-defined]

from peft_unlearn import report
from peft_unlearn.config.unlearn_config import ModelArguments
from peft_unlearn.data.variants import grouped
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows import checks, views
from peft_unlearn.workflows.command import command
from peft_unlearn.workflows.requests import EvaluateRequest

logger = logging.getLogger(__name__)

REPORT = "report.json"


def trained_on(settings: Mapping[str, Any]) -> tuple[BitsAndBytesConfig | None, torch.dtype | None] | None:
    """How the base was quantized in training and the dtype that it was loaded in, by the keys of a run's recipe; None without a recipe."""
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
    reported = report.read(adapter / REPORT) if (adapter / REPORT).is_file() else {"results": {}, "never_seen": {}}
    wanted = request(folder, settings)
    job = views.prepare(checks.measured(wanted))
    found, facts = views.measure_all(job)
    job.benchmark.compare(found, job.how)
    results, shown = beside(reported, found["after"], adapter / REPORT)
    run = {**facts, "command": command("evaluate", wanted)}
    made = report.build(
        results,
        run=run,
        never_seen=reported["never_seen"] if shown else None,
        definitions=job.how.definitions,
        groups=grouped(job.benchmark.probes),
    )
    report.write(made, folder / REPORT)
    return made


def beside(reported: Mapping[str, Any], after: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], bool]:
    """What was measured `after` a merge beside the columns of the adapter's report at `path`, and whether a never-seen model is among them."""
    taken = {name: of_set for name, of_set in reported["results"].items() if _same_rows(of_set, after.get(name, {}))}
    if left_out := [name for name in reported["results"] if name in after and name not in taken]:
        logger.warning(
            "Warning: %s has other rows of %s than recipe.yaml says, so its columns are left out there; to have them, evaluate or audit the "
            "adapter again without --rows, and then merge.",
            path,
            ", ".join(left_out),
        )
    results: dict[str, Any] = {}
    for name, evaluation in after.items():
        of_set = taken.get(name, {})
        before = {view: of_set[source] for view, source in (("before", "before"), ("adapter", "after")) if source in of_set}
        never_seen = {view: of_set[view] for view in ("never_seen",) if view in of_set}
        results[name] = {**before, "after": evaluation, **never_seen}
    return results, any("never_seen" in of_set for of_set in results.values())


def _same_rows(found: Mapping[str, Mapping[str, Any]], evaluation: Mapping[str, Any]) -> bool:
    """Whether the views of a report's set have as many rows of every metric as an evaluation has."""
    shared = ((of_view[metric], evaluation[metric]) for of_view in found.values() for metric in of_view.keys() & evaluation.keys())
    return all(len(one["rows"]) == len(other["rows"]) for one, other in shared)


def request(folder: Path, settings: Mapping[str, Any]) -> EvaluateRequest:
    """What is asked of a merged folder: the sets of its adapter's recipe, the weights in the type that they were written in."""
    sets = {name: settings[f"{name}_dataset"] for name in ("forget", "retain", "holdout") if settings.get(f"{name}_dataset")}
    kept = {
        key: settings[key]
        for key in ("max_length", "eval_dataset", "chat_template_kwargs", "group_column", "holdout_kl")
        if settings.get(key)
    }
    return EvaluateRequest(
        str(folder),
        **sets,
        rows=settings.get("eval_rows"),
        batch_size=settings.get("per_device_eval_batch_size"),
        settings={"dtype": "auto", **kept},
    )
