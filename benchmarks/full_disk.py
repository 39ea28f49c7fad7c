"""A disk that is full at each write of each command: one sentence, status 2, the old files whole, and nothing half-written left?

    python benchmarks/full_disk.py --points 12
    python benchmarks/full_disk.py --only train

Commands write to a file system in memory that is mounted for this (which takes root, or the user namespaces of Linux). A first run tells how much
each write takes; then the same command runs again and again, each time with so little room that another of its writes is the first to fail.
Commands run in forks of one process that has imported everything, on tiny models.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import torch
from same_numbers import COMMON, make_inputs

from peft_unlearn.demo import model as demo_model
from peft_unlearn.demo import people
from peft_unlearn.merging import shards
from peft_unlearn.workflows import audit_run, merged, train_run  # noqa: F401  (imported before the forks)

RECIPE = {
    "model_name_or_path": "base",
    "retain_dataset": "retain.jsonl",
    "max_steps": 2,
    "save_steps": 1,
    "eval_rows": 2,
    "method": "ngdiff",
}
SETS = ["--forget", "forget.jsonl", "--retain", "retain.jsonl", "--rows", "2"]
COMMANDS = {
    "train": ["train", "recipe.json"],
    "train, on from a checkpoint": ["train", "recipe.json", "--resume_from_checkpoint", "true"],
    "evaluate": ["evaluate", "base", *SETS, "--output", "disk/report.json"],
    "audit": ["audit", "disk/run", "--attacks", "sanity", "scale"],
    "merge": ["merge", "run", "--output", "disk/merged", "--base", "base"],
    "export": ["export", "run", "--output", "disk/exported"],
    "demo": ["demo", "--method", "ngdiff", "--output", "disk/demo"],
}
PAGE = 4096
DISK = Path("disk")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=12, help="of a command, at most")
    parser.add_argument("--only", choices=COMMANDS, help="one command")
    options = parser.parse_args()
    if "MOUNTABLE" not in os.environ:
        own = [] if os.geteuid() == 0 else ["--map-root-user"]
        sys.exit(subprocess.run(["unshare", *own, "--mount", sys.executable, *sys.argv], env={**os.environ, "MOUNTABLE": "1"}).returncode)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        wanted = [name for name in COMMANDS if options.only in (None, name)]
        make_bed(Path(place), wanted)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", "disk"], check=True)
        try:
            found = {name: filled(name, options.points) for name in wanted}
        finally:
            subprocess.run(["umount", "disk"], check=True)
    print(json.dumps(found, indent=1))
    sys.exit(any(one["wrong"] for one in found.values()))


def make_bed(folder: Path, wanted: list[str]) -> None:
    """Models and rows, a run that has ended ("run"), and what lies on the disk before each command that is `wanted` ("before/COMMAND")."""
    torch.set_num_threads(1)
    make_inputs(folder)
    DISK.mkdir()
    recipe = {**COMMON, **RECIPE, "forget_dataset": "forget.jsonl", "output_dir": "disk/run"}
    Path("recipe.json").write_text(json.dumps(recipe))
    finished(["train", "recipe.json"])
    shutil.copytree("disk/run", "run")
    for name in COMMANDS:
        Path("before", name).mkdir(parents=True)
    shutil.copytree("run", "before/audit/run")
    if "audit" in wanted:
        finished(COMMANDS["audit"])
        shutil.rmtree("before/audit/run")
        shutil.copytree("disk/run", "before/audit/run")
        (Path("before/audit/run") / "audit.json").write_text("{}")  # so that all of it is made again
    shutil.copytree("run", "before/train, on from a checkpoint/run")
    for file in ("checkpoint-2", "adapter_config.json", "report.json"):
        path = Path("before/train, on from a checkpoint/run", file)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for file in ("report.json", "report.html"):
        shutil.copy(f"run/{file}", "before/evaluate")
    shutil.rmtree("disk/run")


def small() -> None:
    """A demo of few people, on the models of the bed; and no look at the room before, as where another program fills the disk meanwhile."""
    train_run.check_room = shards.check_room = lambda *_, **how: None
    make = people.make_people
    demo_model.train_models = lambda *_: demo_model.Models(Path("base"), Path("other"))  # type: ignore[assignment]
    people.make_people = lambda seed: make(seed, forget=1, retain=1, never_used=1)  # type: ignore[assignment]


def finished(words: list[str]) -> None:
    if commands.finish(words, Path("log"), small):
        sys.exit(f"{' '.join(words)}: {Path('log').read_text()[-3000:]}")


def filled(name: str, points: int) -> dict[str, Any]:
    """What became of a command, with room for less and less of its writes."""
    reset(name)
    files = whole()
    steps = used_by(lambda: finished(COMMANDS[name]))
    after = whole()
    ends, wrong = {"refused": 0, "ended whole": 0}, []
    rooms = sorted({0, 1, *(used - steps[0] - 1 for used in steps[1:])})
    for room in [rooms[i * len(rooms) // points] for i in range(points)] if len(rooms) > points else rooms:
        reset(name)
        ballast(room)
        status = commands.finish(COMMANDS[name], Path("log"), small)
        (DISK / "ballast").unlink()
        found, said = whole(), Path("log").read_text().strip().splitlines()
        problems = [
            f"{file} is {'changed' if file in found else 'gone'}" for file in files if found.get(file) not in same(file, files, after)
        ]
        problems += [f"{file} is left" for file in sorted(found.keys() - files.keys()) if not expected(file, found, after)]
        if status == 0:
            ends["ended whole"] += 1
            problems += [f"{file} is missing" for file in after if file not in found]
        elif (
            status == 2 and said[-1:] and said[-1].startswith("peft-unlearn: error: ") and "Traceback (most" not in Path("log").read_text()
        ):
            ends["refused"] += 1
        else:
            problems.append(f"status {status}, {said[-1:]}")
        wrong += [f"{room} pages free: {', '.join(problems)} [{said[-1][-200:] if said else ''}]"] if problems else []
        print(f"{name}: {room} pages free: status {status}, {problems}, {said[-1][-160:] if said else ''}", file=sys.stderr, flush=True)
    return {**ends, "wrong": wrong}


def same(file: str, before: dict[str, bytes], after: dict[str, bytes]) -> list[bytes]:
    """What a file that was there may be: as it was, or written anew and whole. Those with times or numbers of a run in them are read."""
    return [before[file], *([after[file]] if file in after else [])]


def expected(file: str, found: dict[str, bytes], after: dict[str, bytes]) -> bool:
    """Whether a file may be there that was not: one that an uninterrupted command leaves as well, or of a checkpoint, which has a manifest."""
    return "checkpoint-" in file or (file in after and found[file] == after[file])


def reset(name: str) -> None:
    """Have on the disk what lies there before a command."""
    for path in DISK.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(Path("before", name), DISK, dirs_exist_ok=True)


def whole() -> dict[str, bytes]:
    """The files on the disk, by name, and folders as files of nothing; numbers that differ between runs are cut from reports and pages."""
    return {str(path.relative_to(DISK)): steady(path) if path.is_file() else b"" for path in DISK.rglob("*")}


def steady(path: Path) -> bytes:
    """The bytes of a file; of JSON what is the same in each run, so that one that is cut does not read."""
    data = path.read_bytes()
    if path.suffix == ".json" and path.name in ("report.json", "audit.json"):
        return repr(sorted(json.loads(data))).encode()
    return b"</html>" if data.rstrip().endswith(b"</html>") else data


def used() -> int:
    """Pages of the disk that hold something."""
    system = os.statvfs(DISK)
    return system.f_blocks - system.f_bfree


def used_by(do: Callable[[], None]) -> list[int]:
    """The numbers of used pages that were seen, from before to after, each once and upwards."""
    seen, ended = [used()], threading.Event()

    def watch() -> None:
        while not ended.is_set():
            seen.append(used())
            time.sleep(0.0002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        do()
    finally:
        ended.set()
        watcher.join()
    return [seen[0], *sorted({pages for pages in seen if pages > seen[0]})]


def ballast(room: int) -> None:
    """Fill the disk up to so many free pages."""
    system = os.statvfs(DISK)
    with (DISK / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, system.f_bfree - room) * PAGE)


if __name__ == "__main__":
    main()
