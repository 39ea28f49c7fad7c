"""More than a thousand inputs that cannot be right, each given to a command: exit 2, one sentence, nothing left behind.

    python benchmarks/bad_inputs.py run [--only PART ...]  # into runs/bad_inputs.jsonl, and those that were not refused so on the console
    python benchmarks/bad_inputs.py table                  # docs/reference/bad-input.md: each kind with a message

Every case runs in a folder of its own with a small base, an adapter on it, a run with checkpoints, rows and a recipe. What may come of it beside
"refused": TRACEBACK, ACCEPTED, HANG (more than 60 s), LEFT (files that were not there), WORDS (more than a sentence).
"""

import argparse
import contextlib
import io
import json
import logging
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from hostile import folders, gguf_bases, lines, recipes, rows
from hostile.bed import make_bed, make_run
from hostile.damage import Damage
from peft_unlearn.cli import main as command
from peft_unlearn.workflows import train_run

SECONDS, BYTES = 60, 24 << 30  # that a command may take: of CPU, and of time, beside other programs, ten times as many
RESULTS, PAGE = Path("runs/bad_inputs.jsonl"), Path("docs/reference/bad-input.md")
LONGEST = 240  # characters of a message on the page
ROWS = ["--forget", "forget.jsonl", "--retain", "retain.jsonl", "--rows", "2", "--set", "max_length=32"]
ON_BASE = {
    "train": ["train", "r.yaml", "--model_name_or_path", "m"],
    "plan": ["plan", "r.yaml", "--model_name_or_path", "m"],
    "evaluate": ["evaluate", "m", *ROWS],
    "merge": ["merge", "lora", "--base", "m", "--output", "merged", "--no-evaluate"],
}
OTHERWISE = {"m": "g/model.gguf", "max_length=32": "max_length=128"}  # its tokens are letters
ON_GGUF = {name: [OTHERWISE.get(word, word) for word in line] for name, line in ON_BASE.items()}
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
    damage: Damage | None = None


TRAIN = ["train", "r.yaml"]
# Damages by name; the folder that is copied before, and where to; and by its part of the cases' names the command line that gets it.
KINDS: list[tuple[dict[str, Damage], tuple[str, str] | None, dict[str, list[str]]]] = [
    (recipes.FILES, None, {"recipe-file": TRAIN}),
    (recipes.KEYS, None, {"value": TRAIN}),
    (rows.SETS, None, {"data": TRAIN}),
    (folders.BASES, ("base", "m"), {f"model-{name}": line for name, line in ON_BASE.items()}),
    (gguf_bases.GGUFS, ("gguf", "g"), {f"gguf-{name}": line for name, line in ON_GGUF.items()}),
    (folders.ADAPTERS, ("lora", "a"), {f"adapter-{name}": line for name, line in ON_ADAPTER.items()}),
    (folders.RUNS, ("lora", "a"), {f"run-{name}": line for name, line in ON_ADAPTER.items() if name != "train"}),
    (folders.CHECKPOINTS, ("run/checkpoint-1", "run/checkpoint-3"), {"checkpoint": [*lines.RESUME, "run/checkpoint-3"]}),
]


def cases() -> Iterator[Case]:
    for damages, copied, commands in KINDS:
        for name, damage in damages.items():
            for part, line in commands.items():
                yield Case(f"{part}:{name}", line, copied, damage)
    for line in lines.LINES:
        yield Case("cli:" + " ".join(part[:30] for part in line), line)


# Not wrong for the command that gets them: it reads none of it, or may have it so. `plan` reads config.json and the weights' headers alone, and
# needs no weights; of a GGUF file it reads the sizes that the file says. `merge` copies a template, and tokens that are some.
RIGHT = (
    *(f"run-{command}:{file}-json" for command in ("evaluate", "merge") for file in ("audit", "report")),
    *(f"model-plan:{name}" for name in ("tokenizer", "template", "weights-missing", "weights-nan", "weights-inf", "pickle-bomb")),
    *("model-plan:weights-directory", "model-merge:template"),
    *(f"gguf-plan:{name}" for name in ("tokenizer", "template", "weights", "block_count-3", "head_count_kv-3", "feed_forward_length-3")),
    *(f"gguf-plan:{name}-None" for name in ("block_count", "embedding_length", "feed_forward_length", "head_count")),
    *(f"gguf-merge:{name}" for name in ("template", "tokenizer-tokens-few", "tokenizer-tokens-twice")),
    *(f"adapter-{command}:base-gone" for command in ON_ADAPTER),
)


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
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 10 * SECONDS)
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
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
    lines = [line for line in errors.getvalue().splitlines() if "error: " in line]
    if status == 0:
        return "ACCEPTED", ""
    if status != 2 or len(lines) != 1 or not lines[0].isprintable():
        return "WORDS", f"{status} {lines}"
    return "", lines[0].partition("error: ")[2]


def alarmed(*_: object) -> None:
    raise Hang


def run_all(only: Sequence[str], early: bool) -> None:
    """Try the cases whose names begin with one of these, and keep what came of each."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    for alarm in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(alarm, alarmed)
    counts: Counter[str] = Counter()
    RESULTS.parent.mkdir(exist_ok=True)
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as place, RESULTS.open("a") as results:
        bed = Path(place)
        make_bed(bed)
        os.chdir(bed)
        make_run(bed)
        if early:
            train_run.start = loads
        for case in cases():
            if not case.name.startswith(tuple(only)) or case.name.startswith(RIGHT):
                continue
            logging.disable(logging.CRITICAL)
            began = time.monotonic()
            found, said = run(case, bed)
            seconds = time.monotonic() - began
            counts[found or "refused"] += 1
            results.write(json.dumps({"name": case.name, "found": found or "refused", "said": said, "seconds": round(seconds, 1)}) + "\n")
            results.flush()
            if found:
                print(f"{found} | {case.name!r} | {said!r} | {seconds:.1f} s", flush=True)
        os.chdir(home)
    print(dict(counts), file=sys.stderr)


HEAD = """# What is refused

Whatever cannot be right ends with exit status 2 and one sentence: the key, file or row, what is wrong with it, and what to write. Nothing is
written or left behind. Most is found before a model is loaded. What transformers, PEFT, bitsandbytes and safetensors raise while they load is
told in the same form. A mistake of this package keeps its traceback.

`python benchmarks/bad_inputs.py run` gives {tried} bad inputs to the commands and sees that each ends so; of the last run, {refused} did. The
same with `table` makes this page: each kind of input, how many of it are tried, and what is said of the first. `python benchmarks/fuzz.py
--minutes 20` tries random ones: of 131,327 adapter, config and tokenizer files, templates, recipes, rows and reports (seeds 17 and 27), each was
read or refused in a sentence, but for one whose sentence held a control character and was mended.

| what is wrong | tried | what is said |
| --- | --- | --- |
"""
GIVEN = {  # by how the parts of names begin
    "recipe-file": "a recipe's file",
    "value": "a key of a recipe",
    "data": "a file of rows",
    "model": "a base",
    "gguf": "a base in a GGUF file",
    "adapter": "an adapter",
    "run": "an output folder",
    "checkpoint": "a checkpoint",
    "cli": "the words of a command",
}


def kind(name: str) -> str:
    """What a case is one of, in words."""
    part, _, of = name.partition(":")
    given = GIVEN[next(start for start in GIVEN if part.startswith(start))]
    if part == "value":
        return f"{given}: `{of.partition('=')[0]}`".replace("\0", "\\0")
    if part == "cli":
        words = of.split(" ")
        flags = [word for word in words if re.fullmatch(r"--[a-z_-]+", word)]
        return f"{given}: `{' '.join([words[0], *flags[-1:]]) or 'none'}`"
    return f"{given}: {of.replace('-', ' ') if part in ('data', 'recipe-file') else of.partition('-')[0]}"


def table() -> None:
    entries = {entry["name"]: entry for entry in map(json.loads, RESULTS.read_text().splitlines())}
    entries = {case.name: entries[case.name] for case in cases() if case.name in entries and not case.name.startswith(RIGHT)}
    kinds: dict[str, list[dict[str, Any]]] = {}
    for name, entry in entries.items():
        kinds.setdefault(kind(name), []).append(entry)
    rows = [f"| {what} | {len(found)} | {shown(found[0])} |" for what, found in kinds.items()]
    refused = sum(entry["found"] == "refused" for entry in entries.values())
    PAGE.write_text(HEAD.format(tried=len(entries), refused=refused) + "\n".join(rows) + "\n", encoding="utf-8")


def shown(entry: dict[str, Any]) -> str:
    """A message in a cell: without what one machine says differently than the next, and the middle of what is long."""
    said = str(entry["said"] if entry["found"] == "refused" else entry["found"])
    said = re.sub(r"\S*/tmp\w*/?", "", said).replace("|", "\\|").replace("`", "'")
    said = re.sub(r"(\w)\1{20,}", r"\1…", said)
    return f"`{said if len(said) <= LONGEST else f'{said[: LONGEST // 2]} … {said[-LONGEST // 2 :]}'}`"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("run", "table"))
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose name begins with one of these")
    parser.add_argument("--early", action="store_true", help="a case is accepted where `train` would load its base: quick, and stricter")
    options = parser.parse_args()
    run_all(options.only, options.early) if options.do == "run" else table()
