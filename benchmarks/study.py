"""Every method beside every other, on two kinds of test beds: how far each forgets, and what that costs.

    python benchmarks/study.py run --bed demo [--folder runs/study]
    python benchmarks/study.py run --bed tofu --tofu-beds runs/tofu
    python benchmarks/study.py cost --bed demo|tofu             # CPU seconds and peak memory of a step, each method in a process of its own
    python benchmarks/study.py table [--folder runs/study]        # docs/studies/study-tables.md; --plots FOLDER draws the figures

Test beds 0, 1 and 2 are reported; test bed 3, of other people and authors, chooses the learning rate of each method from a sweep that is as large for
each: the default and its third and triple. Runs with `stop_at` are not swept: what they show is what a user gets. Every run is measured twice:
where it ends, and where it was nearest to never-seen on its way if that was within 20 % (log-probability of the forget set, every 10 steps), as if
somebody had stopped it there who knew. Runs are kept as they end, and none is done twice.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoTokenizer, PrinterCallback, TrainerCallback

import study_report
from peft_unlearn import UnlearnConfig, UnlearnTrainer, metrics
from peft_unlearn.config.methods import METHODS, OURS, learning_rate
from peft_unlearn.data.variants import probe
from peft_unlearn.metrics.membership import membership
from peft_unlearn.metrics.results import summarize
from peft_unlearn.metrics.retain_kl import retain_kl
from peft_unlearn.metrics.truth_ratio_score import truth_ratio_score
from peft_unlearn.model import adapters
from runs import Bed, Runs, demo_bed, tofu_bed

REPORTED, CHOOSING = (0, 1, 2), 3
# arm: settings. `dpo` needs alternate answers, which the test beds do not have; `idkdpo` stands for both.
ARMS: dict[str, dict[str, Any]] = {name: {"method": name} for name in METHODS if name != "dpo"}
ARMS |= {f"{name} to {stop}": {"method": name, "stop_at": stop} for stop in ("auto", "never_seen") for name in OURS}
RATES = (1.0, 1 / 3, 3.0)  # times the default learning rate
PARTS = ("defaults", "sweep", "best")
SWEPT = [arm for arm in ARMS if "stop_at" not in ARMS[arm]]
COST_STEPS = 20
NEAR = 0.2  # of never-seen's log-probability: a run that was never nearer on its way is not measured there
EVERY, WATCHED = 10, 50  # steps between two checks of the forget set on the way, and rows of it
METRICS = ("loss", "probability", "extraction_strength", "exact_memorization", "min_k", "rouge_l", "degenerate", "worst_of_k")


def settings(arm: str, rate: float) -> dict[str, Any]:
    falling = "stop_at" in ARMS[arm] and ARMS[arm]["method"] != "ngdiff"
    return ARMS[arm] | ({} if rate == 1 else {"learning_rate": rate * learning_rate(1, falling=falling)})


def trainer_for(where: Bed, seed: int, chosen: dict[str, Any], folder: str, twin: Any) -> UnlearnTrainer:
    args = UnlearnConfig(folder, seed=seed, disable_tqdm=True, use_cpu=True, logging_steps=10, per_device_eval_batch_size=100, **chosen)
    trainer = UnlearnTrainer(
        str(where.memorized),
        args,
        forget_dataset=where.forget,
        retain_dataset=where.retain,
        holdout_dataset=where.holdout,
        never_seen_model=twin if args.stop_at == "never_seen" else None,
        processing_class=AutoTokenizer.from_pretrained(where.memorized),
        quantization_config=where.quantization_config,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def unlearn(where: Bed, seed: int, chosen: dict[str, Any]) -> dict[str, Any]:
    """One run: numbers where it ends and where it was nearest to never-seen, and the way there."""
    torch.set_num_threads(1)
    twin = adapters.load_base(where.never_seen, quantization_config=where.quantization_config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(where, seed, chosen, folder, twin)
        tokenizer = trainer.processing_class
        length = min(trainer.args.max_length, trainer.model.config.max_position_embeddings)
        sets = {name: probe(getattr(where, name), tokenizer, length, name=name) for name in ("forget", "retain", "holdout")}
        watch = Watch(trainer, sets["forget"].rows, twin)
        trainer.add_callback(watch)
        trainer.train()
    found = {"end": look(trainer.model, tokenizer, sets) | {"step": trainer.state.global_step}, "way": watch.way}
    passed = watch.step not in (None, trainer.state.global_step) and watch.distance <= NEAR * abs(watch.target)
    if passed and not trainer.args.negate:
        torch._foreach_copy_([p.data for p in trainer.student], watch.student)
        found["nearest"] = look(trainer.model, tokenizer, sets) | {"step": watch.step}
    return found


def cost(bed: str, folder: Path, name: str) -> dict[str, float]:
    """CPU seconds of a step, checks of early stopping included, and by how many MB training goes beyond the loaded model at its peak.

    For a process of its own, on Linux, whose kernel keeps that peak.
    """
    torch.set_num_threads(1)
    where = demo_bed(0) if bed == "demo" else tofu_bed(folder)(0)
    twin = adapters.load_base(where.never_seen, quantization_config=where.quantization_config)
    with tempfile.TemporaryDirectory() as output:
        trainer = trainer_for(where, 0, ARMS[name] | {"max_steps": COST_STEPS}, output, twin)
        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
        loaded, began = memory("VmRSS"), time.process_time()
        trainer.train()
        return {"seconds": (time.process_time() - began) / trainer.state.global_step, "mb": memory("VmHWM") - loaded}


def memory(which: str) -> float:
    """A size of this process in MB, by its name in /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


class Watch(TrainerCallback):
    """Remembers the adapter that was nearest to never-seen, in the log-probability of the forget set."""

    def __init__(self, trainer: UnlearnTrainer, forget: Any, twin: Any) -> None:
        self.trainer, self.rows = trainer, forget.select(range(0, len(forget), math.ceil(len(forget) / WATCHED)))
        self.target = logp(twin, trainer.processing_class, self.rows)
        self.way: list[tuple[int, float]] = []
        self.step: int | None = None
        self.distance = math.inf

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % EVERY == 0:
            now = logp(self.trainer.model, self.trainer.processing_class, self.rows)
            self.way.append((state.global_step, round(now, 3)))
            if abs(now - self.target) < self.distance:
                self.distance, self.step = abs(now - self.target), state.global_step
                self.student = [p.detach().clone() for p in self.trainer.student]


def logp(model: Any, tokenizer: Any, rows: Any) -> float:
    """Mean over rows of the mean log-probability, in nats."""
    return float(np.mean([score.logps.mean() for score in metrics.score(model, rows, tokenizer, batch_size=100)]))


def look(model: Any, tokenizer: Any, sets: dict[str, Any]) -> dict[str, Any]:
    """Means of every metric by set; of a whole model, or of an adapter with the divergence from the model without it."""
    found = {
        name: metrics.evaluate(
            model, tokenizer, probe.rows, variants=probe.variants if name != "holdout" else None, batch_size=100, generate=name == "retain"
        )
        for name, probe in sets.items()
    }
    means = {name: {metric: of[metric]["mean"] for metric in METRICS if metric in of} for name, of in found.items()}
    forget, retain = means["forget"], means["retain"]
    if "truth_ratio" in found["forget"]:
        forget["truth_ratio"] = summarize([truth_ratio_score(ratio, True) for ratio in found["forget"]["truth_ratio"]["rows"]])["mean"]
    retain["truth_ratio"] = summarize([truth_ratio_score(ratio, False) for ratio in found["retain"]["truth_ratio"]["rows"]])["mean"]
    forget["min_k_auc"] = membership(found["forget"], found["holdout"])["min_k_auc"]["mean"]
    parts = [retain["probability"], retain["rouge_l"], retain["truth_ratio"]]
    retain["utility"] = 0.0 if min(parts) <= 0 else len(parts) / sum(1 / part for part in parts)
    if isinstance(model, PeftModel):
        views = [lambda view=view: adapters.view(model, view) for view in ("reference", "student")]
        divergence = retain_kl(sets["retain"].rows, *views, batch_size=100)
        retain |= {"kl": divergence["mean"], "kl_p99": divergence["p99"]}
    return means


def whole(where: Bed, which: str) -> dict[str, Any]:
    """The memorized or the never-seen model as it is."""
    tokenizer = AutoTokenizer.from_pretrained(where.memorized)
    model = adapters.load_base(getattr(where, which), quantization_config=where.quantization_config)
    length = min(1024, model.config.max_position_embeddings)
    sets = {name: probe(getattr(where, name), tokenizer, length, name=name) for name in ("forget", "retain", "holdout")}
    found = look(model, tokenizer, sets)
    rows = metrics.evaluate(model, tokenizer, sets["forget"].rows, batch_size=100, generate=False)
    return found | {"rows": {"extraction_strength": rows["extraction_strength"]["rows"]}}


class Study(Runs):
    """The runs of one kind of test bed, in a file of their own."""

    def arm(self, n: int, name: str, rate: float) -> dict[str, Any]:
        chosen = settings(name, rate)
        return self.once(json.dumps([n, chosen], sort_keys=True), lambda: unlearn(self.bed(n), n, chosen))

    def bed(self, n: int) -> Bed:
        """Where settings are only chosen, nobody asks for other wordings."""
        where = self.make(n)
        return where if n != CHOOSING else replace(where, forget=where.forget.select_columns(["question", "answer"]))

    def cost(self, name: str, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
        return self.once(f"cost {name}", compute)

    def has(self, n: int, name: str, rate: float) -> bool:
        return json.dumps([n, settings(name, rate)], sort_keys=True) in self.done

    def whole(self, n: int, which: str) -> dict[str, Any]:
        return self.once(f"{which} {n}", lambda: whole(self.make(n), which))


def run(study: Study, arms: list[str], parts: list[str]) -> None:
    """Defaults on the reported test beds, the sweep on the other, then its best on the reported ones."""
    for n in (*REPORTED, CHOOSING):
        for which in ("memorized", "never_seen"):
            study.whole(n, which)
    for name in arms if "defaults" in parts else ():
        for n in REPORTED:
            say(study, n, name, 1.0)
    swept = [name for name in arms if name in SWEPT]
    for rate in RATES if "sweep" in parts else ():
        for name in swept:
            say(study, CHOOSING, name, rate)
    for name in swept if "best" in parts else ():
        best, _ = study_report.best_point(study, name, CHOOSING, RATES)
        for n in REPORTED:
            say(study, n, name, best)


def say(study: Study, n: int, name: str, rate: float) -> None:
    end = study.arm(n, name, rate)["end"]
    print(
        f"{time.strftime('%H:%M:%S')} test bed {n}, {name}, rate x{rate:.2g}: {end['step']} steps, forget loss {end['forget']['loss']:.2f} "
        f"ES {end['forget']['extraction_strength']:.3f} AUC {end['forget']['min_k_auc']:.3f}, retain utility {end['retain']['utility']:.3f} "
        f"KL {end['retain']['kl']:.4f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("run", "cost", "table"))
    parser.add_argument("--bed", choices=("demo", "tofu"), default="demo")
    parser.add_argument("--tofu-beds", type=Path, default=Path("runs/tofu"))
    parser.add_argument("--folder", type=Path, default=Path("runs/study"))
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--plots", type=Path)
    options = parser.parse_args()
    studies = {
        "demo": Study(options.folder / "demo.jsonl", cache(demo_bed)),
        "tofu": Study(options.folder / "tofu.jsonl", cache(tofu_bed(options.tofu_beds))),
    }
    if options.do == "run":
        run(studies[options.bed], options.arms, options.parts)
    elif options.do == "cost":
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            for name in options.arms:
                found = studies[options.bed].cost(name, lambda name=name: pool.submit(cost, options.bed, options.tofu_beds, name).result())
                print(f"{name}: {found['seconds']:.2f} CPU seconds a step, {found['mb']:.0f} MB", flush=True)
    else:
        study_report.write(studies, list(ARMS), SWEPT, REPORTED, CHOOSING, RATES, options.plots)


if __name__ == "__main__":
    main()
