"""`method: auto` at its defaults on test beds of many kinds: is what comes out like a model that never saw the rows?

    python benchmarks/auto.py run --kinds authors text --settings never_seen holdout --seeds 0 1 [--key value …]
    python benchmarks/auto.py run --rows-from FOLDER …       # also kinds of others: forget.jsonl, retain.jsonl, holdout.jsonl in each folder
    python benchmarks/auto.py table                          # a line for each run, and in what share of the runs each goal is met
    python benchmarks/auto.py beside                         # the log p of a second model without the forget set, and what nobody taught
    python benchmarks/auto.py answers                        # ten answers of each run, before, after and of the twin

A bed is a tiny model that memorized a kind's rows (--memory full), or has them at p .6 (light). The run is given a never-seen model and a holdout,
or a holdout alone. "retrained" is no run: a further model without the forget set is judged as if it were one, and shows what can be met at all.
Further keys change the recipe. Each run is a line of --runs when it ends, and is not made again. Models are trained when they are first needed.
"""

import argparse
import contextlib
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import PeftModel
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging

from beds import architectures, kinds
from beds.goals import answers, beside, table
from beds.measuring import Beside
from beds.models import SIZES, Bed, recipe
from beds.source import SETS
from peft_unlearn.config import reading
from peft_unlearn.demo.model import default_cache
from peft_unlearn.model import adapters
from peft_unlearn.workflows import TrainRequest, Unfinished, train

NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
SETTINGS = ("never_seen", "holdout", "retrained")
MEMORY = ("full", "light")


def main(command: Sequence[str] | None = None) -> None:
    options, keys = arguments(command)
    lines = [json.loads(line) for line in options.runs.read_text().splitlines()] if options.runs.exists() else []
    if options.do != "run":
        print({"table": table, "beside": beside, "answers": answers}[options.do](lines))
        return
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    changed = reading.parse_overrides(keys)
    options.runs.parent.mkdir(parents=True, exist_ok=True)
    done = {json.dumps(line["run"], sort_keys=True) for line in lines}
    found = [kinds.invented(name, options.rows) for name in options.kinds] + [kinds.from_folder(folder) for folder in options.rows_from]
    for kind, memory in product(found, options.memory):
        missing = [run for run in runs(options, kind.name, memory, changed) if json.dumps(run, sort_keys=True) not in done]
        if not missing:
            continue
        bed = Bed(
            kind, options.cache, recipe(light=memory == "light", size=options.size, nf4=options.nf4, architecture=options.architecture)
        )
        others = Beside(bed, *(load(bed, name, options.nf4) for name in ("before", "never seen", "twin 1")))
        for run in missing:
            line = made(run, others, options.output)
            with options.runs.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            print(table([line], head=False), flush=True)


def arguments(command: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("run", "table", "beside", "answers"))
    parser.add_argument("--kinds", nargs="*", choices=kinds.names(), default=list(kinds.BUILD))
    parser.add_argument("--rows-from", nargs="+", type=Path, default=[], metavar="FOLDER")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["never_seen", "holdout"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--memory", nargs="+", choices=MEMORY, default=["full"])
    parser.add_argument("--rows", type=int, help="rows to forget of each kind that is named; others in proportion")
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--architecture", choices=architectures.OTHERS, help="of the models; Llamas if left out")
    parser.add_argument("--nf4", action="store_true", help="the memory survives NF4, and the run holds the model in it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/auto.jsonl"))
    parser.add_argument("--output", type=Path, help="keeps the runs' folders; a temporary one if left out")
    parser.add_argument("--cache", type=Path, default=default_cache().with_name("planted"))
    return parser.parse_known_args(command)


def runs(options: argparse.Namespace, kind: str, memory: str, keys: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What tells each run on a bed from all others."""
    told = {name: getattr(options, name) for name in ("rows", "size", "architecture", "nf4", "threads")}
    same = {"kind": kind, "memory": memory, **told, "keys": keys}
    for setting, seed in product(options.settings, options.seeds):
        yield {**same, "setting": setting, "seed": seed}


def load(bed: Bed, name: str, nf4: bool) -> PreTrainedModel:
    return adapters.load_base(bed.path(name), dtype=torch.float32, quantization_config=NF4 if nf4 else None).eval()


def made(run: dict[str, Any], beside: Beside, output: Path | None) -> dict[str, Any]:
    """A run, and what it came to."""
    start = time.perf_counter()
    torch.set_num_threads(run["threads"])  # here, for the bed's models are trained on one
    with tempfile.TemporaryDirectory() as scratch:
        if run["setting"] == "retrained":
            after, how = load(beside.bed, f"twin {2 + run['seed']}", run["nf4"]), {}
        else:
            folder = Path(output or scratch) / named(run)
            shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
            how = trained(run, beside.bed, folder)
            after = PeftModel.from_pretrained(load(beside.bed, "before", run["nf4"]), str(folder / "adapter")).eval()
    wall = round(time.perf_counter() - start, 1)
    return {"run": run, "checks_only": kinds.checks_only(run["kind"]), **how, **beside.compare(after), "wall_seconds": wall}


def named(run: dict[str, Any]) -> str:
    """The name of a run's folder."""
    changed = [f"{key}={value}".replace("/", "_") for key, value in run["keys"].items()]
    told = [f"{name}_{run[name]}" for name in ("rows", "size", "architecture", "nf4", "threads", "seed")]
    parts = [run["kind"], run["setting"], run["memory"], *told, *changed]
    return "-".join(map(str, parts))


def trained(run: dict[str, Any], bed: Bed, folder: Path) -> dict[str, Any]:
    """`peft-unlearn train` on the bed's rows, without the questions in other words; what its report says."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        rows = [{key: value for key, value in row.items() if not key.startswith("paraphrased")} for row in bed.kind.of_run[name]]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    plan = {
        "model_name_or_path": str(bed.path("before")),
        "dtype": "float32",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": run["seed"],
        "method": "auto",
        "output_dir": str(folder / "adapter"),
        **{f"{name}_dataset": str(folder / f"{name}.jsonl") for name in SETS},
    }
    if run["setting"] == "never_seen":
        plan["never_seen_model_name_or_path"] = str(bed.path("never seen"))
    if run["nf4"]:
        plan |= {"load_in_4bit": True, "use_bnb_nested_quant": True}
    stopped = None
    with (folder / "log.txt").open("w") as log, contextlib.redirect_stdout(log):
        try:
            report = train(TrainRequest(plan | run["keys"])).report
        except Unfinished as error:
            report, stopped = error.result.report, str(error)
    criteria = {found["name"]: found["value"] for found in report["verdict"]["criteria"]}
    return {
        **{key: report["run"][key] for key in ("reached", "ended", "missed", "steps", "seconds")},
        "stopped": stopped,
        "word": report["verdict"]["word"],
        "reasons": report["verdict"]["reasons"],
        "left": [criteria.get(f"reworded_{name}") for name in ("probability", "memorization")],
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


if __name__ == "__main__":
    main()
