"""A disk without room: one sentence, and nothing half-written. `benchmarks/full_disk.py` tries each write of each command."""

from pathlib import Path

import pytest
from cli_bed import refused
from little_room import room

from peft_unlearn.cli import main


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize(("size", "left"), [(1000, []), (8000, ["recipe.yaml"]), (25_000, ["recipe.yaml"])])
def test_a_run_leaves_whole_files_alone(size, left, recipe, capsys):
    name = recipe(eval_rows=1, save_strategy="steps", save_steps=1)
    with room(size):
        refused(capsys, ["train", name], "out", ": no room is left on the disk, make some and start again.")
    assert sorted(files(Path("out")) if left else []) == left
    assert Path("out").exists() == bool(left)


def test_the_old_report_stays_where_a_new_one_finds_no_room(bed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sets = [word for name in ("forget", "retain") for word in (f"--{name}", str(bed / f"{name}.jsonl"))]
    command = ["evaluate", str(bed / "base"), *sets, "--rows", "1", "--output", "report.json"]
    assert main(command) == 0
    before = files(tmp_path)
    with room(1000):
        refused(capsys, command, "report.json: no room is left on the disk")
    assert files(tmp_path) == before


@pytest.mark.parametrize("size", [100, 3000, 60_000])
@pytest.mark.parametrize("command", ["merge", "export"])
def test_nothing_of_a_folder_that_finds_no_room_stays(command, size, bed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if command == "export" and size > 3000:
        size = 4000  # of an adapter of 8 kB
    more = ["--no-evaluate"] if command == "merge" else []
    with room(size):
        refused(capsys, [command, str(bed / "lora"), "--output", "there", *more], "there: no room is left on the disk")
    assert not list(tmp_path.iterdir())
