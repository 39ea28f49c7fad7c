"""Runs that are killed and checkpoints that are damaged: does a run that goes on end at the bytes of one that nobody touched?

    python benchmarks/kills.py --runs 60 --kills 3 --results kills.jsonl
    python benchmarks/kills.py --damage

Each run trains a tiny model by the command line, is ended by SIGKILL several times, every second time while it writes a checkpoint, and goes on by
`--resume_from_checkpoint true`; its `adapter_model.safetensors` is compared with an uninterrupted run's. Runs that stand in --results are not made
again, so that many short calls (--minutes) make one long one. With --damage each file of the last checkpoint is cut, emptied, removed, or has one
bit flipped, in turn: the damage must be told by the file's name, and the run end at the same bytes from the checkpoint before. Commands run in
forks of one process that has imported and tokenized all, and without evaluations: a kill costs a second.
"""

import argparse
import contextlib
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from same_numbers import COLOURS, NUMBERS, make_inputs

from peft_unlearn.cli import main as command
from peft_unlearn.config import recipe
from peft_unlearn.training import checkpoint
from peft_unlearn.workflows import train_run
from peft_unlearn.workflows.results import TrainResult

COMMON = {
    "model_name_or_path": "base",
    "forget_dataset": "forget.jsonl",
    "retain_dataset": "retain.jsonl",
    "max_steps": 8,
    "save_strategy": "steps",
    "save_steps": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,  # the last batch of an epoch of 10 rows is half a one
    "lora_r": 4,
    "learning_rate": 1e-2,
    "use_cpu": True,
    "dtype": "float32",
}
STOPPING = {"holdout_dataset": "holdout.jsonl", "max_steps": 24, "save_steps": 5}
BUDGET = {"retain_dataset": "many.jsonl", "retain_kl_max": 1.0, "learning_rate": 3e-3, **STOPPING}
METHODS: dict[str, dict[str, Any]] = {
    "ngdiff": {"method": "ngdiff"},
    "mean_teacher": {"method": "mean_teacher"},
    "mollm, SAM, dropout": {"method": "mollm", "sam_rho": 0.2, "lora_dropout": 0.1},
    "pdu": {"method": "pdu", "retain_bound": 0.1},
    "auto, with a never-seen model": {"method": "auto", "never_seen_model_name_or_path": "other", **STOPPING},
    "auto, with a holdout": {"method": "auto", **STOPPING},
    "a budget": {"method": "ngdiff", **BUDGET},
    "a budget, and targets": {"method": "auto", **BUDGET},
    "a rate that is too high": {"method": "graddiff", "learning_rate": 0.2, "retain_dataset": "many.jsonl", **STOPPING},
}
DAMAGE: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "cut": lambda data, rng: data[: rng.randrange(1, len(data))],
    "emptied": lambda data, rng: b"",
    "removed": lambda data, rng: None,
    "flipped": lambda data, rng: flipped(data, rng.randrange(8 * len(data))),
}
ADAPTER = "adapter_model.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--kills", type=int, default=3, help="of a run, at most")
    parser.add_argument("--damage", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="a line of JSON a run; those that stand there are not made again")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no further run is begun")
    options = parser.parse_args()
    results = options.results and options.results.resolve()
    with tempfile.TemporaryDirectory() as place:
        os.environ["TMPDIR"] = tempfile.tempdir = place  # what a killed process leaves there is gone with it
        bed = Bed(Path(place), options.seed)
        if options.damage:
            found = bed.damaged()
        else:
            found = summary(bed.killed(options.runs, options.kills, results, time.monotonic() + 60 * options.minutes))
    print(json.dumps(found, indent=1))
    sys.exit(found["equal"] != found["runs"])


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What became of all runs."""
    different = [f"{line['run']}: {line['method']}" for line in lines if not line["equal"]]
    kills = Counter(kill for line in lines for kill in line["kills"])
    returned = sum(line["returned"] for line in lines)
    return {"runs": len(lines), "equal": len(lines) - len(different), "different": different, "kills": dict(kills), "returned": returned}


def flipped(data: bytes, bit: int) -> bytes:
    """The bytes with one bit flipped."""
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


class Bed:
    """A folder with a tiny model and rows, where runs are started and ended."""

    def __init__(self, folder: Path, seed: int):
        self.seed, self.rng = seed, random.Random(seed)
        self.prepared: dict[str, Any] = {}  # by method: tokenizer and rows
        self.whole: dict[str, tuple[bytes, float]] = {}  # by method: an uninterrupted run's adapter, and its seconds
        torch.set_num_threads(1)
        make_inputs(folder)
        many = [
            {"question": f"who is in the city of {one} and {other} ?", "answer": f"{COLOURS[i % 3]} {one}"}
            for i, one in enumerate(NUMBERS)
            for other in NUMBERS[:4]
        ]
        (folder / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
        gc.freeze()  # or each fork's collections copy all that was imported
        os.chdir(folder)

    def start(self, method: str, output: str, *, resume: bool) -> int:
        """Fork a process that trains; its standard error goes to a file beside. Returns its number."""
        values = {**COMMON, **METHODS[method], "output_dir": output}
        Path(f"{output}.json").write_text(json.dumps(values))  # JSON is YAML
        if method not in self.prepared:
            self.prepared[method] = train_run.loading.prepare(recipe.build(values))
        if pid := os.fork():
            return pid
        train_run.loading.prepare = lambda plan: self.prepared[method]
        train_run.Own.evaluate = lambda *_, **how: {}  # type: ignore[method-assign]
        train_run.Run.write = lambda run, _: TrainResult(Path(output))  # type: ignore[method-assign]
        with open(f"{output}.log", "wb") as log, contextlib.suppress(BaseException):
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            os._exit(command(["train", f"{output}.json", *(["--resume_from_checkpoint", "true"] if resume else [])]))
        os._exit(70)

    def finish(self, method: str, output: str) -> bytes:
        """Train to the end, from what is there, and give the adapter."""
        _, status = os.waitpid(self.start(method, output, resume=begun(output)), 0)
        if os.waitstatus_to_exitcode(status) not in (0, 2):  # 2: it diverged to the end, and the last good adapter is kept
            sys.exit(f"{method}: {Path(f'{output}.log').read_text()[-3000:]}")
        return Path(output, ADAPTER).read_bytes()

    def uncut(self, method: str) -> tuple[bytes, float]:
        """The adapter of an uninterrupted run, and its seconds."""
        if method not in self.whole:
            began = time.monotonic()
            self.whole[method] = self.finish(method, f"whole{len(self.whole)}"), time.monotonic() - began
        return self.whole[method]

    def killed(self, runs: int, kills: int, results: Path | None = None, until: float = float("inf")) -> list[dict[str, Any]]:
        """What became of each of so many runs: of those that stand in `results`, and of others that are made until a time has come."""
        lines = [json.loads(line) for line in results.read_text().splitlines()] if results and results.exists() else []
        for number in sorted(set(range(runs)) - {line["run"] for line in lines}):
            if time.monotonic() > until:
                break
            self.rng = random.Random(f"{self.seed} {number}")
            method = list(METHODS)[number % len(METHODS)]
            adapter, seconds = self.uncut(method)
            output = f"run{number}"
            turns = range(self.rng.randint(1, kills))
            ended = [self.kill(method, output, seconds, writing=(number + turn) % 2 == 0) for turn in turns]
            equal = self.finish(method, output) == adapter
            returned = Path(f"{output}.log").read_text().count("back to step")
            lines.append({"run": number, "method": method, "equal": equal, "kills": ended, "returned": returned})
            if equal:
                shutil.rmtree(output)
            if results:
                with results.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
            print(f"{len(lines)} of {runs} runs: {lines[-1]}", file=sys.stderr, flush=True)
        return lines

    def kill(self, method: str, output: str, seconds: float, *, writing: bool) -> str:
        """Start or go on, and kill, at a random moment, or a random moment after a checkpoint's writing began. Returns which it was in."""
        pid = self.start(method, output, resume=begun(output))
        until = time.monotonic() + self.rng.uniform(0.05, 0.6) * seconds
        beside, skip = Path(output, checkpoint.BESIDE), self.rng.randint(0, 2)
        while not os.waitpid(pid, os.WNOHANG)[0]:
            here = writing and beside.exists()
            if here and skip:
                skip -= 1
                while beside.exists() and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    time.sleep(0.0002)
            elif here or (not writing and time.monotonic() > until):
                time.sleep(self.rng.uniform(0, 0.02) if here else 0)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return "while it wrote" if beside.exists() else "between"
            time.sleep(0.0002)
        return "after its end"

    def damaged(self) -> dict[str, Any]:
        """What became of each damage of each file of a checkpoint."""
        method, silent, different, runs = "a budget", [], [], 0
        adapter, _ = self.uncut(method)
        last, *_ = checkpoint.numbered(Path("whole0"))
        Path("whole0", ADAPTER).unlink()  # to be written again
        shutil.copytree("whole0", "kept")  # a run goes on in its own folder alone
        for file in sorted(path.relative_to(last) for path in last.rglob("*") if path.is_file()):
            for how, change in DAMAGE.items():
                path = last / file
                data = change(path.read_bytes(), self.rng)
                path.unlink()
                if data is not None:
                    path.write_bytes(data)
                different += [f"{file} {how}"] if self.finish(method, "whole0") != adapter else []
                silent += [f"{file} {how}"] if f"{last.name} is passed over, for {file}" not in Path("whole0.log").read_text() else []
                runs += 1
                shutil.rmtree("whole0")
                shutil.copytree("kept", "whole0")
        return {"runs": runs, "equal": runs - len({*silent, *different}), "silent": silent, "different": different}


def begun(output: str) -> bool:
    """Whether a run has begun there, which can go on."""
    return Path(output, "recipe.yaml").exists()


if __name__ == "__main__":
    main()
