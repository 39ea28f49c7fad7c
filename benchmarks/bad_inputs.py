"""Some 900 inputs that cannot be right, each given to a command: exit 2, one sentence, nothing left behind.

    python benchmarks/bad_inputs.py [--only PART ...] [--list]

Every case runs in a folder of its own with a small base, an adapter on it, rows and a recipe. What is printed are the cases that were not
refused so: TRACEBACK, ACCEPTED, HANG (more than 60 s), LEFT (files that were not there), WORDS (more than a sentence). With --list also the
message of each that was, which is how docs/reference/bad-input.md is made.
"""

import argparse
import contextlib
import io
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import yaml

from hostile import folders, words
from hostile.bed import make_bed
from peft_unlearn.cli import main as command
from peft_unlearn.workflows import train_run

SECONDS, BYTES = 60, 24 << 30
ROWS = ["--forget", "forget.jsonl", "--retain", "retain.jsonl", "--rows", "2", "--set", "max_length=32"]
ON_BASE = {
    "train": ["train", "r.yaml", "--model_name_or_path", "m"],
    "plan": ["plan", "r.yaml", "--model_name_or_path", "m"],
    "evaluate": ["evaluate", "m", *ROWS],
    "merge": ["merge", "lora", "--base", "m", "--output", "merged", "--no-evaluate"],
}
ON_ADAPTER = {
    "train": ["train", "r.yaml", "--adapter_name_or_path", "a"],
    "evaluate": ["evaluate", "a", *ROWS, "--base", "base"],
    "audit": ["audit", "a", *ROWS, "--base", "base", "--attacks", "scale"],
    "merge": ["merge", "a", "--output", "merged", "--no-evaluate", "--base", "base"],
}


class Hang(BaseException):
    pass


class Loads(BaseException):
    """The base would be loaded now."""


def loads(*_: object) -> None:
    raise Loads


@dataclass(frozen=True)
class Case:
    """A command line, and what is done before: a damaged copy of a folder, or a file that is written."""

    name: str
    arguments: list[str]
    copied: tuple[str, str] | None = None
    damage: folders.Damage | None = None


def cases() -> Iterator[Case]:
    for name, content in words.RECIPE_FILES.items():
        yield Case(f"recipe-file:{name}", ["train", "bad.yaml"], damage=folders.written("bad.yaml", content))
    for name, path in words.RECIPE_NAMES.items():
        yield Case(f"recipe-file:{name}", ["train", path])
    for key, values in words.VALUES.items():
        for value in values:

            def damage(folder: Path, key: str = key, value: object = value) -> None:
                found = yaml.safe_load((folder / "r.yaml").read_text())
                (folder / "r.yaml").write_text(yaml.safe_dump({**found, key: value}))

            yield Case(f"value:{key}={str(value)[:40]!r}", ["train", "r.yaml"], damage=damage)
    for name, (file, content) in words.DATA.items():
        other = ["--retain_dataset", "f.jsonl"] if name == "same-as-retain" else []
        yield Case(f"data:{name}", ["train", "r.yaml", "--forget_dataset", file, *other], damage=folders.written(file, content))
    for name, damage in folders.BASES.items():
        for command_name, line in ON_BASE.items():
            yield Case(f"model-{command_name}:{name}", line, ("base", "m"), damage)
    for name, damage in folders.ADAPTERS.items():
        for command_name, line in ON_ADAPTER.items():
            yield Case(f"adapter-{command_name}:{name}", line, ("lora", "a"), damage)
    for name, damage in folders.RUNS.items():
        for command_name in ("evaluate", "audit", "merge"):
            yield Case(f"run-{command_name}:{name}", ON_ADAPTER[command_name], ("lora", "a"), damage)
    for line in words.LINES:
        yield Case("cli:" + " ".join(part[:30] for part in line), line)


# Not wrong for the command that gets them: it reads none of it, or may have it so.
RIGHT = ("run-evaluate:audit-json", "run-merge:audit-json", "run-evaluate:report-json", "run-merge:report-json")


def run(case: Case, bed: Path) -> tuple[str, str]:
    """(what it came to, "" if it was refused as it should be; its message or the traceback's last line)."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copytree(bed, folder, dirs_exist_ok=True)
        os.mkfifo(folder / "pipe")  # there, and neither a file nor a folder
        inner = folder
        if case.copied:
            inner = folder / case.copied[1]
            shutil.copytree(bed / case.copied[0], inner)
        if case.damage:
            case.damage(inner)
        os.chdir(folder)
        before = listing(folder)
        found, said = answer(case.arguments)
        os.chdir(bed)
        if not found and (left := listing(folder) - before):
            return "LEFT", ", ".join(sorted(left))
        return found, said


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def answer(arguments: list[str]) -> tuple[str, str]:
    """What a command line comes to."""
    errors = io.StringIO()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            status = command(arguments)
    except Hang:
        return "HANG", ""
    except Loads:
        return "ACCEPTED", "the base would be loaded"
    except BaseException as error:  # whatever a user would have seen as a traceback
        place = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in place if "peft_unlearn" in frame.filename][-1]
        said = (str(error).strip().splitlines() or [""])[0][:150]
        return "TRACEBACK", f"{Path(own.filename).name}:{own.lineno} {type(error).__name__}: {said}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    lines = [line for line in errors.getvalue().splitlines() if "error: " in line]
    if status == 0:
        return "ACCEPTED", ""
    if status != 2 or len(lines) != 1 or not lines[0].isprintable():
        return "WORDS", f"{status} {lines}"
    return "", lines[0].partition("error: ")[2]


def alarmed(*_: object) -> None:
    raise Hang


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose name begins with one of these")
    parser.add_argument("--every", type=int, default=1, help="every so many of them")
    parser.add_argument("--early", action="store_true", help="a case is accepted where `train` would load its base: quick, and stricter")
    parser.add_argument("--list", action="store_true", help="print the message of each refusal")
    options = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    signal.signal(signal.SIGALRM, alarmed)
    if options.early:
        train_run._start = loads
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        bed = Path(place)
        make_bed(bed)
        chosen = [case for case in cases() if case.name.startswith(tuple(options.only))][:: options.every]
        for case in chosen:
            if case.name.startswith(RIGHT):
                continue
            logging.disable(logging.CRITICAL)
            began = time.monotonic()
            found, said = run(case, bed)
            seconds = time.monotonic() - began
            counts[found or "refused"] += 1
            if found or options.list:
                print(f"{found or 'refused'} | {case.name!r} | {said!r} | {seconds:.1f} s", flush=True)
    print(dict(counts), file=sys.stderr)


if __name__ == "__main__":
    main()
