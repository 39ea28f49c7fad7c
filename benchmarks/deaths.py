"""One process of a run dies: do all others end, how soon, and what do they say?

    python benchmarks/deaths.py run --deaths 50 --output benchmarks/results/deaths.jsonl [--minutes 2]
    python benchmarks/deaths.py table benchmarks/results/deaths.jsonl

Each run trains a tiny model with two processes, as `peft-unlearn train RECIPE --processes 2` does. One of them, by turns, is ended by SIGKILL at a
random moment of a step, a check, an evaluation or while a checkpoint is saved. What is noted: seconds from there until the launcher and all
processes are gone, how many live on, and what was said. Commands run in forks of one process that has imported all. A call goes on where the last
one ended; `--minutes` is when it begins no further one.
"""

import argparse
import contextlib
import gc
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.launcher.api  # not in each fork
from same_numbers import make_inputs

from peft_unlearn.cli import main as command
from peft_unlearn.cli import processes
from peft_unlearn.training.adapter_trainer import AdapterTrainer
from peft_unlearn.training.checks import Checks
from peft_unlearn.training.trainer import UnlearnTrainer
from peft_unlearn.util import interrupts
from peft_unlearn.workflows import train_run

NUMBER, LIMIT, PATIENCE = 2, 60.0, 120.0  # processes; seconds within which all must be gone, and after which nobody waits
RECIPE = {
    "method": "auto",
    "neutral_rows": 0,
    "model_name_or_path": "base",
    "never_seen_model_name_or_path": "other",
    "forget_dataset": "forget.jsonl",
    "retain_dataset": "retain.jsonl",
    "holdout_dataset": "holdout.jsonl",
    "max_steps": 24,
    "save_strategy": "steps",
    "save_steps": 3,
    "per_device_train_batch_size": 2,
    "lora_r": 4,
    "learning_rate": 1e-3,
    "use_cpu": True,
    "dtype": "float32",
    "disable_tqdm": True,
}
MOMENTS: dict[str, tuple[type, str]] = {
    "step": (UnlearnTrainer, "training_step"),
    "check": (Checks, "check"),
    "evaluation": (train_run.Run, "evaluate"),
    "saving": (AdapterTrainer, "_save_checkpoint"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run")
    run.add_argument("--output", type=Path, required=True)
    run.add_argument("--deaths", type=int, default=50)
    run.add_argument("--minutes", type=float, default=600.0)
    run.set_defaults(main=lambda options: deaths(options.output.absolute(), options.deaths, options.minutes))
    shown = commands.add_parser("table")
    shown.add_argument("results", type=Path)
    shown.set_defaults(main=lambda options: print(table([json.loads(line) for line in options.results.read_text().splitlines()])))
    options = parser.parse_args()
    options.main(options)


def deaths(output: Path, number: int, minutes: float) -> None:
    """Add to the file until it has so many deaths."""
    until = time.monotonic() + 60 * minutes
    done = len(output.read_text().splitlines()) if output.exists() else 0
    with tempfile.TemporaryDirectory() as place:
        os.environ["TMPDIR"] = tempfile.tempdir = place
        torch.set_num_threads(1)
        make_inputs(Path(place))
        gc.freeze()  # or each fork's collections copy all that was imported
        os.chdir(place)
        while done < number and time.monotonic() < until:
            found = death(list(MOMENTS)[done % len(MOMENTS)], done // len(MOMENTS) % NUMBER, random.Random(done), f"run{done}")
            with output.open("a") as file:
                file.write(json.dumps(found) + "\n")
            done += 1
            print(f"{done} of {number}", found, file=sys.stderr, flush=True)
        os.chdir("/")
    print(f"{done} of {number} deaths")


def death(moment: str, rank: int, rng: random.Random, folder: str) -> dict[str, Any]:
    """Start a run, end one of its processes at such a moment, and see what becomes of the others."""
    launcher = start(folder)
    turn, wait = rng.randint(1, {"step": 12, "check": 2, "evaluation": 2, "saving": 4}[moment]), rng.uniform(0, 0.05)
    mark = Path(f"{folder}-{moment}-{rank}-{turn}")
    until = time.monotonic() + PATIENCE
    while not mark.exists() or not mark.read_text():
        if time.monotonic() > until or os.waitid(os.P_PID, launcher, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            sys.exit(f"{folder}: it never came to its {moment} {turn}: {said(folder)[-3000:]}")
        time.sleep(0.002)
    ranks = [int(Path(f"{folder}-{number}").read_text()) for number in range(NUMBER)]
    time.sleep(wait)
    os.kill(ranks[rank], signal.SIGKILL)
    began = time.monotonic()
    while any(map(alive, [launcher, *ranks])) and time.monotonic() < began + PATIENCE:
        time.sleep(0.01)
    seconds = time.monotonic() - began
    left = [pid for pid in [launcher, *ranks] if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(launcher, 0)
    text = said(folder)
    return {
        "moment": moment,
        "rank": rank,
        "seconds": round(seconds, 2),
        "left": len(left),
        "status": os.waitstatus_to_exitcode(status),
        "named": f"process {rank} of {NUMBER} was ended by SIGKILL" in text,
        "traceback": "Traceback" in text,
        "said": [line[:300] for line in text.splitlines() if "peft-unlearn:" in line],
    }


def said(folder: str) -> str:
    """What a run has printed."""
    return Path(f"{folder}.log").read_text(errors="replace")


def start(folder: str) -> int:
    """Fork a launcher, and give its number; its processes write theirs, and each moment that they come to, into files."""
    Path(f"{folder}.json").write_text(json.dumps({**RECIPE, "output_dir": folder}))  # JSON is YAML
    if pid := os.fork():
        return pid
    status = 70
    with open(f"{folder}.log", "wb") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    try:
        with interrupts.raised():
            processes.launch(NUMBER, worker, folder)
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        sys.stderr.flush()
        os._exit(status)


def worker(folder: str) -> None:
    """What each process does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a command does not have the launcher's own handler, which forks inherit
    rank = os.environ["RANK"]
    for moment, (owner, name) in MOMENTS.items():
        setattr(owner, name, marked(getattr(owner, name), f"{folder}-{moment}-{rank}"))
    Path(f"{folder}-{rank}").write_text(str(os.getpid()))
    if status := command(["train", f"{folder}.json"]):
        sys.exit(status)


def marked(function: Callable[..., Any], mark: str) -> Callable[..., Any]:
    """A function that writes a file when it is called, by the number of the call."""
    calls = 0

    def call(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        Path(f"{mark}-{calls}").write_text("begun")
        return function(*arguments, **settings)

    return call


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def table(found: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    head = ["killed in", "deaths", "all ended", "median s", "longest s", "left over", "said which", "tracebacks"]
    lines = []
    for moment in [*MOMENTS, "all"]:
        of = [one for one in found if moment in (one["moment"], "all")]
        seconds = [one["seconds"] for one in of]
        ended = sum(one["seconds"] < LIMIT and not one["left"] for one in of)
        counts = [sum(one["left"] for one in of), sum(one["named"] for one in of), sum(one["traceback"] for one in of)]
        lines.append([moment, str(len(of)), str(ended), f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}", *map(str, counts)])
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


if __name__ == "__main__":
    main()
