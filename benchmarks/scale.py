"""How time and memory grow where length, batch, rank, vocabulary, objectives or rows double, each alone.

    OMP_NUM_THREADS=1 python benchmarks/scale.py                                     # some minutes on a core
    OMP_NUM_THREADS=1 python benchmarks/scale.py --parts step --quantities length --steps 1
    OMP_NUM_THREADS=1 python benchmarks/scale.py --parts rows --rows 500 1000 2000
    python benchmarks/scale.py --parts step --device cuda

A step is the trainer's, graddiff on a small model of random weights in NF4 (speed.py), after one that does not count; the values of a quantity
take turns. Its memory is the peak of all that a run of two steps makes, adapter and optimizer included, base excluded. An evaluation (without
generation, a tiny model) and an epoch of pairs run in a process of their own, whose resident memory is read.

Nothing is to more than double, but for length what attention itself adds, by its share of the multiplications, and for objectives those whose
anchor is a forward more. Memory of a few MB is noise.
"""

import argparse
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from peft_unlearn import data, metrics
from speed import Paced, build, counting, in_turns, llama, machine, peak, row, table, tokenizer, unlearning

FORK = multiprocessing.get_context("fork")
MIDDLE = {"length": 64, "batch": 4, "rank": 16, "vocabulary": 8192, "objectives": 2}
DOUBLED = {
    "length": (32, 64, 128, 256, 512),
    "batch": (2, 4, 8, 16),
    "rank": (8, 16, 32, 64),
    "vocabulary": (4096, 8192, 16384, 32768),
    "objectives": (1, 2, 4),
}
LONGER = {"length": 8, "batch": 1, "rank": 1, "vocabulary": 4, "objectives": 1}  # times so much on a GPU, or it would idle
OBJECTIVES: dict[int, dict[str, Any]] = {
    1: {"method": "task_arithmetic"},
    2: {"method": "graddiff"},
    4: {"method": "graddiff", "retain_kl": "reference", "holdout_kl": "reference"},
}
PASSES = {1: 2, 2: 4, 4: 9}  # forward and backward: of 4 objectives two have the reference's forward besides
SHAPES = {"cpu": (256, 704, 4, 64), "cuda": (2048, 8192, 16, 64)}  # hidden, intermediate, layers, head


def bar(quantity: str, low: int, high: int, device: str, vocabulary: int) -> float:
    """The most by which the time of a step may grow."""
    if quantity == "objectives":
        return max(2.0, PASSES[high] / PASSES[low])
    if quantity != "length":
        return 2.0
    hidden, intermediate, layers, _ = SHAPES[device]
    weights = layers * hidden * (2.5 * hidden + 3 * intermediate) + hidden * vocabulary

    def multiplications(length: int) -> float:
        """Of a forward and a backward: frozen weights take as much in both, attention twice in the backward and half to compute it again."""
        return 2 * length * weights + 3.5 * 2 * length**2 * hidden * layers

    return multiplications(high) / multiplications(low)


def steps(options: argparse.Namespace) -> None:
    """A step where one quantity doubles and the others stay in the middle."""
    scale = LONGER if options.device == "cuda" else dict.fromkeys(LONGER, 1)
    for quantity in options.quantities:
        values = [value * scale[quantity] for value in DOUBLED[quantity]]
        makers = {}
        for value in values:
            at = {name: middle * scale[name] for name, middle in MIDDLE.items()} | {quantity: value}
            base = build(llama(at["vocabulary"], *SHAPES[options.device]), options.device)
            names = ("forget", "retain", "holdout")[: 3 if at["objectives"] == 4 else 2]
            sets = {name: counting(4 * at["batch"], at["length"], at["vocabulary"], seed) for seed, name in enumerate(names)}
            makers[str(value)] = partial(unlearning, base, sets, at["batch"], at["rank"], **OBJECTIVES[at["objectives"]])
        runs = {value: Paced(make()) for value, make in makers.items()}
        in_turns(runs, 1, options.device)
        seconds = {value: statistics.median(found) for value, found in in_turns(runs, options.steps, options.device).items()}
        for run in runs.values():
            run.close()
        memory = {value: peak(options.device, lambda make=make: make(max_steps=2).train()) for value, make in makers.items()}
        bars = ["", *(f"{bar(quantity, low, high, options.device, at['vocabulary']):.2f}" for low, high in itertools.pairwise(values))]
        doubled(f"a step: {quantity}", [(value, seconds[value], memory[value]) for value in makers], bars)


def doubled(quantity: str, found: list[tuple[str, float, int]], bars: list[str]) -> None:
    """Rows of the table, each with its ratios to the one before."""
    before = None
    for (value, seconds, size), most in zip(found, bars, strict=True):
        ratios = ("", "") if before is None else (f"{seconds / before[0]:.2f}", f"{size / max(1, before[1]):.2f}")
        row(quantity, value, f"{seconds:.3f}", ratios[0], most, f"{size / 1e6:.1f}", ratios[1], most and "2.00")
        before = seconds, size


def rows(options: argparse.Namespace) -> None:
    """Evaluation and pairing over more and more rows."""
    tiny, words = build(llama(64, 64, 128, 1, 64), "cpu"), tokenizer()

    def evaluate(rows: Dataset) -> None:
        metrics.evaluate(tiny, words, rows, batch_size=64, generate=False)

    def pair(rows: Dataset) -> None:
        pairs = data.Pairs({"forget": rows, "retain": rows}, 0)
        for n in data.PairSampler(pairs):
            pairs[n]

    for name, work in (("an epoch of pairs: rows", pair), ("an evaluation: rows", evaluate)):
        found = [(f"{count}", *apart(partial(work, counting(count, options.row_length, 64, 0)))) for count in options.rows]
        ratios = (high / low for low, high in itertools.pairwise(options.rows))
        doubled(name, found, ["", *(f"{ratio:.2f}" for ratio in ratios)])


def apart(run: Callable[[], Any]) -> tuple[float, int]:
    """CPU seconds and bytes of memory that `run` takes, in a process that is forked for it (Linux)."""
    told = FORK.SimpleQueue()

    def measured() -> None:
        before, start = resident("VmRSS"), time.process_time()
        run()
        told.put((time.process_time() - start, resident("VmHWM") - before))

    child = FORK.Process(target=measured)
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(child.exitcode)
    return told.get()


def resident(which: str) -> int:
    """Resident memory of this process in bytes: VmRSS now, VmHWM at its highest."""
    return 1024 * int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu", help="of the steps")
    parser.add_argument("--parts", nargs="+", choices=("rows", "step"), default=["rows", "step"])
    parser.add_argument("--quantities", nargs="+", choices=list(DOUBLED), default=list(DOUBLED))
    parser.add_argument("--steps", type=int, default=5, help="that count")
    parser.add_argument("--rows", type=int, nargs="+", default=[12500, 25000, 50000, 100000])
    parser.add_argument("--row-length", type=int, default=16)
    options = parser.parse_args()
    print(machine(options.device), end="\n\n")
    table("what: quantity", "value", "s", "ratio", "bar", "MB", "ratio", "bar")
    for part in options.parts:
        {"rows": rows, "step": steps}[part](options)


if __name__ == "__main__":
    main()
