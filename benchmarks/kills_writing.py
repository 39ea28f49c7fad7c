"""Merges and exports that are ended at random moments: is anything half there, and does the next one write what an uninterrupted one would?

    python benchmarks/kills_writing.py --runs 30

Every second one is ended while it writes; of three signals two are SIGKILL and one is SIGTERM. Then nothing, or a whole folder, may have the
output's name. After SIGTERM nothing else may be left, one sentence is said, and the status is 143. The same command is then run again: its folder
must have the bytes of an uninterrupted one, and nothing be left beside it. Commands run in forks of one process.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import commands
import torch
from peft import LoraConfig, get_peft_model
from same_numbers import make_inputs
from transformers import LlamaConfig, LlamaForCausalLM

from peft_unlearn import merging  # noqa: F401  (imported before the forks)
from peft_unlearn.publish import hub  # noqa: F401

COMMANDS = {
    "merge": ["merge", "run", "--output", "out", "--no-evaluate"],
    "merge into NF4": ["merge", "run", "--output", "out", "--no-evaluate", "--quantize", "nf4"],
    "export": ["export", "run", "--output", "out"],
}
HIDDEN = Path(".out.partial")
DONE = ("Merged into out", "Exported to out")  # what a command says last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        make_bed(Path(place))
        found = ended(options.runs, random.Random(options.seed))
    print(json.dumps(found, indent=1))
    sys.exit(bool(found["wrong"]))


def make_bed(folder: Path) -> None:
    """A base of 20 MB in ten shards, "large", and an adapter of 4 MB on it, "run", with a tokenizer and a card."""
    torch.set_num_threads(1)
    make_inputs(folder)
    config = LlamaConfig(vocab_size=1024, hidden_size=256, intermediate_size=1024, num_hidden_layers=5, num_attention_heads=4)
    LlamaForCausalLM(config).save_pretrained("large", max_shard_size="2MB")
    adapter = LoraConfig(r=32, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(LlamaForCausalLM.from_pretrained("large"), adapter).save_pretrained("run")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"base/{name}", "large")
        shutil.copy(f"base/{name}", "run")


def ended(runs: int, rng: random.Random) -> dict[str, Any]:
    """What became of so many commands that were ended."""
    count, wrong = Counter[str](), []
    whole: dict[str, tuple[dict[str, bytes], float, float]] = {}
    for number in range(runs):
        name = list(COMMANDS)[number % len(COMMANDS)]
        if name not in whole:
            uninterrupted(name)  # the first one takes longer
            whole[name] = uninterrupted(name)
        files, before, written = whole[name]
        how = signal.SIGTERM if rng.random() < 1 / 3 else signal.SIGKILL
        moment, status = end(name, rng.uniform(0, written - before if number % 2 == 0 else before), how, writing=number % 2 == 0)
        count[f"{how.name} {moment}"] += 1
        said = Path("log").read_text().strip().splitlines()
        if Path("out").exists() and contents() != files:
            wrong.append(f"{number}: {name}, {how.name} {moment}: out is half there")
        if how == signal.SIGTERM and moment != "after its end":
            wrong += [f"{number}: {name}: status {status}"] if status != 143 else []
            wrong += [f"{number}: {name}: said {said[-3:]}"] if said[-1:] != ["peft-unlearn: interrupted by SIGTERM"] else []
            wrong += [f"{number}: {name}: {HIDDEN} is left by SIGTERM"] if HIDDEN.exists() else []
        shutil.rmtree("out", ignore_errors=True)
        status = commands.finish(COMMANDS[name], Path("log"))
        if status or contents() != files:
            wrong.append(f"{number}: {name}: the next one ends with {status}, and other files: {Path('log').read_text()[-300:]}")
        wrong += [f"{number}: {name}: {HIDDEN} is left by the next one"] if HIDDEN.exists() else []
        shutil.rmtree("out", ignore_errors=True)
        print(f"{number + 1} of {runs}: {dict(count)}, wrong: {wrong}", file=sys.stderr, flush=True)
    return {"runs": runs, "ended": dict(count), "wrong": wrong}


def uninterrupted(name: str) -> tuple[dict[str, bytes], float, float]:
    """The files of a command that nobody ends, and after how many seconds it began to write and had written."""
    began = time.monotonic()
    pid = commands.start(COMMANDS[name], Path("log"))
    while not HIDDEN.exists() and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.0005)
    before = time.monotonic() - began
    while HIDDEN.exists():
        time.sleep(0.0005)
    written = time.monotonic() - began
    if os.waitpid(pid, 0)[1]:
        sys.exit(f"{name}: {Path('log').read_text()[-3000:]}")
    files = contents()
    shutil.rmtree("out")
    return files, before, written


def end(name: str, after: float, how: signal.Signals, *, writing: bool) -> tuple[str, int]:
    """Begin a command and end it so many seconds after it began, or began to write. Returns in which moment it was, and its status."""
    pid = commands.start(COMMANDS[name], Path("log"))
    until = None if writing else time.monotonic() + after
    while not (done := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
        if until is None and HIDDEN.exists():
            until = time.monotonic() + after
        if until is not None and time.monotonic() > until:
            break
        time.sleep(0.0002)
    moment = "after its end" if done else "while it wrote" if HIDDEN.exists() else "at another moment"
    if not done:
        os.kill(pid, how)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    said = Path("log").read_text()
    return ("after its end" if status == -how and any(word in said for word in DONE) else moment), status


def contents() -> dict[str, bytes]:
    """The files of the output, by name."""
    return {str(path.relative_to("out")): path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}


if __name__ == "__main__":
    main()
