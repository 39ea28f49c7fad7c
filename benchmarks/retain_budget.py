"""Is a budget kept where nobody measured it, and what does it cost? `retain_kl_max` on test beds of four kinds, five methods, two seeds.

    python benchmarks/retain_budget.py run --cache CACHE [--kinds authors text --methods npo --seeds 0 --limit 0.1]
    python benchmarks/retain_budget.py table [--limit 0.1]

A bed is a tiny model that memorized a kind's rows (`benchmarks/auto.py`). A run is given two thirds of the retain rows; the last third are fresh:
neither trained on nor measured on by the run. Each run is made with the budget and without it, and is a line of --runs when it ends; what is there
is not made again. Kept is a divergence on the fresh rows of at most the limit. Forgetting is 1 - the mean probability of the forget rows.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback

from beds import kinds
from beds.models import Bed
from peft_unlearn import UnlearnConfig, UnlearnTrainer
from peft_unlearn.demo.model import default_cache
from peft_unlearn.metrics.retain_kl import retain_kl
from peft_unlearn.metrics.suite import evaluate
from peft_unlearn.model import adapters

METHODS: dict[str, dict[str, Any]] = {
    "npo": {"method": "npo"},
    "ngdiff": {"method": "ngdiff"},
    "mean_teacher": {"method": "mean_teacher"},
    "graddiff": {"method": "graddiff"},
    "auto": {"method": "auto", "stop_at": "never_seen"},
}
POINTS = 0.05


def main(command: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("run", "table"))
    parser.add_argument("--kinds", nargs="+", choices=kinds.names(), default=list(kinds.BUILD))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--limit", type=float, default=0.1, help="nats a token")
    parser.add_argument("--steps", type=int, default=80, help="of a run, at most")
    parser.add_argument("--runs", type=Path, default=Path("runs/retain_budget.jsonl"))
    parser.add_argument("--cache", type=Path, default=default_cache().with_name("planted"))
    options = parser.parse_args(command)
    lines = [json.loads(line) for line in options.runs.read_text().splitlines()] if options.runs.exists() else []
    if options.do == "table":
        print("\n".join(table([line for line in lines if line["run"]["limit"] in (None, options.limit)])))
        return
    torch.set_num_threads(1)
    options.runs.parent.mkdir(parents=True, exist_ok=True)
    done = [line["run"] for line in lines]
    for seed, kind in product(options.seeds, options.kinds):
        bed = Bed(kinds.invented(kind), options.cache)
        for method, limit in product(options.methods, (None, options.limit)):
            run = {"kind": kind, "method": method, "seed": seed, "steps": options.steps, "limit": limit}
            if run not in done:
                line = made(run, bed)
                with options.runs.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(json.dumps(line), flush=True)


class Heard(logging.Handler):
    """The warnings of a run."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def made(run: dict[str, Any], bed: Bed) -> dict[str, Any]:
    """A run, and what it came to."""
    start, rows = time.perf_counter(), {name: found.rows for name, found in bed.sets.items()}
    if groups := bed.sets["retain"].groups:  # as a run finds them in rows of text
        rows["retain"] = rows["retain"].add_column("group", list(groups))
    cut = 2 * len(rows["retain"]) // 3
    given, fresh = rows["retain"].select(range(cut)), rows["retain"].select(range(cut, len(rows["retain"])))
    heard = Heard()
    logging.getLogger("peft_unlearn").addHandler(heard)
    with TemporaryDirectory() as folder:
        how = {"max_steps": run["steps"], "seed": run["seed"], "retain_kl_max": run["limit"], **METHODS[run["method"]]}
        args = UnlearnConfig(folder, use_cpu=True, disable_tqdm=True, save_minutes=0, **how)
        trainer = UnlearnTrainer(
            bed.model("before"),
            args,
            forget_dataset=rows["forget"],
            retain_dataset=given,
            holdout_dataset=rows["holdout"] if "stop_at" in how else None,
            never_seen_model=bed.model("never seen") if "stop_at" in how else None,
            processing_class=bed.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        stopped = None
        try:
            trainer.train()
        except Exception as error:  # a run that ends badly is a line as well
            stopped = str(error)
    logging.getLogger("peft_unlearn").removeHandler(heard)
    retains = [-line["logp/retain"] for line in trainer.state.log_history if "logp/retain" in line]
    found = {
        "fresh": divergence(trainer, fresh),
        "given": divergence(trainer, given),
        "probability": evaluate(trainer.model, bed.tokenizer, rows["forget"], generate=False)["probability"]["mean"],
        "steps": trainer.state.global_step,
        "ended": trainer.end.why,
        "stopped": stopped,
        "highest_retain_loss": max(retains, default=None),
        "lost_from": trainer.components.damage.limit(),
        **trainer.safety.facts(trainer.state.global_step),
        "said": heard.said,
        "seconds": round(time.perf_counter() - start, 1),
    }
    return {"run": run, **{key: round(value, 5) if isinstance(value, float) else value for key, value in found.items()}}


def divergence(trainer: UnlearnTrainer, rows: Dataset) -> float:
    """Mean KL divergence of the student from the reference, in nats a token."""
    reference, student = ((lambda view=view: adapters.view(trainer.model, view)) for view in ("reference", "student"))
    return float(retain_kl(rows, reference, student)["mean"])


def pairs(lines: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each run without and with a budget."""
    free = {json.dumps({**line["run"], "limit": None}): line for line in lines if line["run"]["limit"] is None}
    for line in lines:
        if line["run"]["limit"] is not None:
            yield free[json.dumps({**line["run"], "limit": None})], line


def table(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each method, all kinds and seeds together, and one for all."""
    yield "| method | runs | kept on fresh rows | without a budget | divergence, largest | without | forgetting | without | within 5 points |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    every = list(pairs(lines))
    for method in [*dict.fromkeys(line["run"]["method"] for _, line in every), "all"]:
        found = [(free, line) for free, line in every if method in (line["run"]["method"], "all")]
        kept = sum(line["fresh"] <= line["run"]["limit"] for _, line in found)
        both = [(free, line) for free, line in found if max(free["fresh"], line["fresh"]) <= line["run"]["limit"]]
        near = sum(line["probability"] - free["probability"] <= POINTS for free, line in both)
        forgot = [1 - sum(line["probability"] for line in side) / len(found) for side in zip(*found, strict=True)]
        yield (
            f"| {method} | {len(found)} | {kept} | {sum(free['fresh'] <= line['run']['limit'] for free, line in found)} "
            f"| {max(line['fresh'] for _, line in found):.3f} | {max(free['fresh'] for free, _ in found):.3f} "
            f"| {forgot[1]:.3f} | {forgot[0]:.3f} | {near} of {len(both)} |"
        )


if __name__ == "__main__":
    main()
