"""Unlearning runs on a small test bed, each kept in a file as it ends, so that an experiment can be cut and taken up again."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, BitsAndBytesConfig, PrinterCallback

from peft_unlearn import UnlearnConfig, UnlearnTrainer, data, metrics
from peft_unlearn.demo import model
from peft_unlearn.demo import people as demo_people
from peft_unlearn.model import adapters

NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
METRICS = ("probability", "extraction_strength", "exact_memorization", "rouge_l")


@dataclass(frozen=True)
class Bed:
    """What a run needs: two model folders, rows to forget, to keep and of which no model heard, and how the base is held."""

    memorized: Path
    never_seen: Path
    forget: Dataset
    retain: Dataset
    holdout: Dataset | None
    quantization_config: Any


def demo_bed(seed: int) -> Bed:
    """The demo's people; the base in NF4."""
    people = demo_people.make_people(seed)
    models = model.train_models(people, model.default_cache(), seed)
    kinds = len(people.forget) // 8
    # wrong answers: to the same kind of question about others, of whom no model heard
    others = [people.never_used[kind::kinds] for kind in range(kinds)]

    def rows(split: str) -> Dataset:
        asked = zip(getattr(people, split), people.paraphrases[split], strict=True)
        return Dataset.from_list(
            [
                {
                    **row,
                    "paraphrased_question": again["question"],
                    "perturbed_answer": [others[i % kinds][(i // kinds + k) % 8]["answer"] for k in range(1, 4)],
                }
                for i, (row, again) in enumerate(asked)
            ]
        )

    retain = rows("retain").remove_columns("paraphrased_question")  # nobody attacks what is kept
    return Bed(models.memorized, models.never_seen, rows("forget"), retain, Dataset.from_list(people.never_used), NF4)


def tofu_bed(folder: Path) -> Callable[[int], Bed]:
    """What benchmarks/tofu_test_bed.py left in `folder`; the base in fp32."""

    def bed(n: int) -> Bed:
        rows = {name: data.load(str(folder / str(n) / f"{name}.jsonl"), name=name) for name in ("forget", "retain", "unseen")}
        # three of the five wrong answers, as on the demo's test beds; nobody attacks what is kept
        forget, retain = (rows[name].map(lambda row: {"perturbed_answer": row["perturbed_answer"][:3]}) for name in ("forget", "retain"))
        holdout = rows["unseen"].select_columns(["question", "answer"])
        folders = folder / str(n) / "memorized", folder / str(n) / "never_seen"
        retain = retain.remove_columns("paraphrased_question")
        return Bed(*folders, forget, retain, holdout, None)

    return bed


def real_bed(folder: Path) -> Callable[[int], Bed]:
    """What benchmarks/real_input.py left in `folder`, one test bed for all seeds; the base in fp32, since NF4 takes a third of so small a model."""
    rows = {name: data.load(str(folder / f"{name}.jsonl"), name=name) for name in ("forget", "retain")}
    return lambda seed: Bed(folder / "memorized", folder / "never_seen", rows["forget"], rows["retain"], None, None)


def options(description: str, runs: str) -> argparse.Namespace:
    """The command line that the experiments on the demo's test beds share: --runs and --seeds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default=runs, help="file of the runs that have ended (default %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser.parse_args()


def by_arm(
    description: str,
    folder: str,
    arms: dict[str, dict[str, Any]],
    run: Callable[[Bed, int, dict[str, Any]], dict[str, Any]],
    table: Callable[[dict[str, "Runs"], list[int]], None],
) -> None:
    """The command line of an experiment of named settings, on either kind of test bed: run those that are missing, or print the table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("run", "table"))
    parser.add_argument("--bed", choices=("demo", "tofu"), default="demo")
    parser.add_argument("--beds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(arms), default=list(arms))
    parser.add_argument("--tofu-beds", type=Path, default=Path("runs/tofu"))
    parser.add_argument("--folder", type=Path, default=Path(folder))
    options = parser.parse_args()
    makers = {"demo": cache(demo_bed), "tofu": cache(tofu_bed(options.tofu_beds))}
    if options.do == "table":
        there = {kind: options.folder / f"{kind}.jsonl" for kind in makers}
        return table({kind: Runs(file) for kind, file in there.items() if file.is_file()}, options.beds)
    kept = Runs(options.folder / f"{options.bed}.jsonl", makers[options.bed])
    for n in options.beds:
        for arm in options.arms:
            kept.once(json.dumps([n, arms[arm]], sort_keys=True), lambda n=n, arm=arm: run(kept.make(n), n, arms[arm]))
            print(f"{time.strftime('%H:%M:%S')} test bed {n}, {arm}", flush=True)
    return None


class Runs:
    """Runs of one experiment; `file` holds a line for each that ended, keyed by seed and settings."""

    def __init__(self, file: str | Path, make: Callable[[int], Bed] = demo_bed):
        self.file, self.make = Path(file), make
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.touch()
        self.done = {line["key"]: line["result"] for line in map(json.loads, self.file.read_text().splitlines())}

    def once(self, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in self.done:
            self.done[key] = compute()
            with self.file.open("a") as file:
                file.write(json.dumps({"key": key, "result": self.done[key]}) + "\n")
        return self.done[key]

    def unlearn(self, seed: int, **settings: Any) -> dict[str, Any]:
        """Unlearn with `settings`: the mean of each metric by set, p of the forget batches on the way, the last rate, seconds a step."""
        return self.once(json.dumps([seed, settings], sort_keys=True), lambda: _unlearn(self.make(seed), seed, settings))

    def look(self, seed: int, which: str) -> dict[str, Any]:
        """The test bed's "memorized" or "never_seen" model as it is."""
        return self.once(f"{which} {seed}", lambda: _look(self.make(seed), which))


def _means(found: dict[str, metrics.Evaluation]) -> dict[str, Any]:
    return {name: {metric: result[metric]["mean"] for metric in METRICS} for name, result in found.items()}


def _look(where: Bed, which: str) -> dict[str, Any]:
    base = adapters.load_base(getattr(where, which), quantization_config=where.quantization_config)
    tokenizer = AutoTokenizer.from_pretrained(where.memorized)
    length = base.config.max_position_embeddings
    rows = {
        name: data.tokenize(found, tokenizer, length, name=name).rows
        for name, found in (("forget", where.forget), ("retain", where.retain))
    }
    return _means({name: metrics.evaluate(base, tokenizer, found, batch_size=40) for name, found in rows.items()})


def _unlearn(where: Bed, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        args = UnlearnConfig(folder, seed=seed, disable_tqdm=True, use_cpu=True, logging_steps=10, **settings)
        trainer = UnlearnTrainer(
            str(where.memorized),
            args,
            forget_dataset=where.forget,
            retain_dataset=where.retain,
            processing_class=AutoTokenizer.from_pretrained(where.memorized),
            quantization_config=where.quantization_config,
        )
        trainer.remove_callback(PrinterCallback)
        began = time.perf_counter()
        trainer.train()
        seconds = (time.perf_counter() - began) / trainer.state.global_step
        found = {
            name: metrics.evaluate(trainer.model, trainer.processing_class, rows, batch_size=40) for name, rows in trainer.sets.items()
        }
        curve = [{k: line[k] for k in ("step", "p/forget")} for line in trainer.state.log_history if "p/forget" in line]
        return _means(found) | {"curve": curve, "lr": trainer.optimizer.param_groups[0]["lr"], "seconds_a_step": seconds}
