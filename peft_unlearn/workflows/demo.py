"""Fictional people, two models that were trained on them here, and a run of each method."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_unlearn.util import disk
from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows.requests import DemoRequest
from peft_unlearn.workflows.results import DemoResult, TrainResult

if TYPE_CHECKING:
    from peft_unlearn.benchmarks import Sets
    from peft_unlearn.config.recipe import Recipe
    from peft_unlearn.demo.model import Models

logger = logging.getLogger(__name__)

MARK = "demo.json"  # of a folder that the demo may write over


def demo(request: DemoRequest, begin: Callable[[str], object] = logger.info) -> DemoResult:
    """Invent people, train a model that memorized them and a never-seen model, and make the first forget some people, once with each method.

    Args:
        begin: called with the title of each part as it begins.

    Raises:
        UserError: the output folder holds something else, before torch is imported; or what a run refuses.
    """
    from peft_unlearn.workflows import checks

    output = Path(request.output)
    _clear(request, output)
    checks.say_loading()

    from peft_unlearn import report
    from peft_unlearn.demo import model, people
    from peft_unlearn.workflows import train_run

    invented = people.make_people(request.seed)
    people.write(invented, output / "data")
    begin("A small model that memorized them, and one that never met those to be forgotten")
    models = model.train_models(invented, output / "models" if request.fresh else model.default_cache(), request.seed)
    plans = {method: _recipe(request, method, models) for method in request.method}
    never_seen = _evaluate_never_seen(next(iter(plans.values())))
    runs: dict[str, TrainResult] = {}
    for method, plan in plans.items():
        begin(method)
        runs[method] = train_run.run(plan, never_seen=never_seen)
        logger.info("Adapter, card, recipe and report are in %s", runs[method].output)
    before = next(iter(runs.values())).views["before"]
    together = {
        name: {
            "before": before[name],
            **{method: done.views["after"][name] for method, done in runs.items()},
            "never_seen": never_seen[name],
        }
        for name in never_seen
    }
    questions = {name: [row["question"] for row in rows] for name, rows in (("forget", invented.forget), ("retain", invented.retain))}
    return DemoResult(output, runs, together, report.build(together, run={}), questions)


def _clear(request: DemoRequest, output: Path) -> None:
    """Make the folder, without what an earlier demo wrote that this one writes anew."""
    with boundary(f"output: {str(output)!r} cannot be made", "write another folder"):
        if output.exists() and (not output.is_dir() or (not (output / MARK).is_file() and any(output.iterdir()))):
            raise UserError(f"output: {output} holds something else than a demo, write another folder.")
        output.mkdir(parents=True, exist_ok=True)
    for name in (*request.method, "data", "models"):
        shutil.rmtree(output / name, ignore_errors=True)
    disk.write_text(output / MARK, json.dumps({"seed": request.seed}))


def _recipe(request: DemoRequest, method: str, models: "Models") -> "Recipe":
    """The run of one method, hardened, on the base in NF4."""
    from peft_unlearn.config import recipe

    output = Path(request.output)
    values: dict[str, Any] = {
        "model_name_or_path": str(models.memorized),
        "dtype": "float32",
        "load_in_4bit": True,
        "use_bnb_nested_quant": True,
        "forget_dataset": str(output / "data/forget.jsonl"),
        "retain_dataset": str(output / "data/retain.jsonl"),
        "holdout_dataset": str(output / "data/never_used.jsonl"),
        "eval_dataset": {"two_hop": str(output / "data/two_hop.jsonl")},
        "never_seen_model_name_or_path": str(models.never_seen),
        "stop_at": "never_seen",
        "sam_rho": 0.2,
        "eval_rows": 0,
        "per_device_eval_batch_size": 64,
        "method": method,
        "seed": request.seed,
        "output_dir": str(output / method),
    }
    return recipe.build(values)


def _evaluate_never_seen(plan: "Recipe") -> "Sets":
    """What the never-seen model shows, once for all methods."""
    from peft_unlearn.benchmarks import How
    from peft_unlearn.benchmarks.own import Own
    from peft_unlearn.model import adapters
    from peft_unlearn.training import datasets
    from peft_unlearn.workflows import loading

    tokenizer, probes = loading.prepare(plan)
    never_seen = loading.load_never_seen(plan.model, plan.model.never_seen_model_name_or_path or "", key="never_seen_model_name_or_path")
    how = How(batch_size=plan.training.per_device_eval_batch_size)
    found = Own(datasets.evaluated(plan.training, probes), 0).evaluate(never_seen, tokenizer, how, "never-seen")
    del never_seen
    adapters.release()
    return found
