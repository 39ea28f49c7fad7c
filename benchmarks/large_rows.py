"""Time and memory of large sets: 100,000 forget rows, and one row of 10 MB, from the files to a run's second step.

    python benchmarks/large_rows.py
    python benchmarks/large_rows.py --rows 10000 --only auto

Each case is a process of its own on a tiny model. Its phases: to load and tokenize the sets, to prepare the trainer (for auto with other answers and
targets), and to take two steps. Said are the seconds of each phase, and the most memory (resident set) that the process had until its end.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import torch
from same_numbers import COLOURS, COMMON, NUMBERS, make_inputs

from peft_unlearn.config import recipe
from peft_unlearn.training.trainer import UnlearnTrainer
from peft_unlearn.workflows import loading

CASES = {
    "mean_teacher": {"method": "mean_teacher"},
    "auto": {"method": "auto", "holdout_dataset": "holdout.jsonl"},
    "one row": {"method": "mean_teacher", "forget_dataset": "long.jsonl"},
}
PHASES = ("import", "load and tokenize", "prepare", "two steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--megabytes", type=float, default=10.0, help="of the one row")
    parser.add_argument("--only", choices=CASES, help="one case")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)  # in its own process
    options, here = parser.parse_args(), Path(__file__).resolve()
    if options.case:
        print(json.dumps(measured(CASES[options.case])))
        return
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        make_inputs(Path(place))
        write(options.rows, options.megabytes)
        print("| case | " + " | ".join(f"{phase}: s | GB" for phase in PHASES) + " |")
        for case in CASES:
            if options.only in (None, case):
                words = [sys.executable, str(here), "--case", case]
                done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                print(f"| {case} | " + " | ".join(f"{seconds:.1f} | {size:.2f}" for seconds, size in found) + " |", flush=True)


def write(rows: int, megabytes: float) -> None:
    """The forget set of so many short rows, and one of a single long text."""
    with open("forget.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in islice(asked(), rows))
    sentence = "what is the colour of one two three ? "
    text = sentence * max(1, int(megabytes * 1e6 / len(sentence)))
    Path("long.jsonl").write_text(json.dumps({"text": text}) + "\n")


def asked() -> Iterator[dict[str, str]]:
    """Rows that all differ."""
    for number, words in enumerate(product(NUMBERS, repeat=6)):
        yield {
            "question": f"what is the colour of {' '.join(words)} ?",
            "answer": f"the colour of {words[0]} {words[5]} {words[2]} is {COLOURS[number % 3]}",
        }


def measured(case: dict[str, str]) -> list[tuple[float, float]]:
    """Seconds of each phase, and the most memory until its end, in GB."""
    torch.set_num_threads(1)
    found = [(time.process_time(), memory())]
    began = time.perf_counter()

    def ended() -> None:
        found.append((time.perf_counter() - began - sum(seconds for seconds, _ in found[1:]), memory()))

    values = {**COMMON, "model_name_or_path": "base", "forget_dataset": "forget.jsonl", "retain_dataset": "retain.jsonl", "eval_rows": 100}
    plan = recipe.build({**values, **case, "max_steps": 2, "save_strategy": "no", "disable_tqdm": True, "output_dir": "out"})
    tokenizer, probes = loading.prepare(plan)
    ended()
    args = plan.training
    trainer = UnlearnTrainer(args=args, processing_class=tokenizer, **loading.training_sets(probes), **loading.load_to_train(plan.model))
    ended()
    trainer.train()
    ended()
    return found


def memory() -> float:
    """The most resident memory of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
