"""Commands that a signal ends: what was trained is saved, nothing half-written stays, and one sentence says so."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from cli_bed import refused
from kills import METHODS, Bed
from safetensors.torch import load_file

from peft_unlearn.cli import main
from peft_unlearn.data import sources
from peft_unlearn.merging import merging
from peft_unlearn.model import adapters
from peft_unlearn.training import checkpoint
from peft_unlearn.training.trainer import UnlearnTrainer
from peft_unlearn.workflows import train_run

pytestmark = pytest.mark.usefixtures("heard")
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}


def sending(function, number: signal.Signals, call: int):
    """The function, which at a certain call sends a signal first."""
    calls = iter(range(1, 1000))

    def sends(*args, **kwargs):
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    return sends


@pytest.fixture
def unevaluated(monkeypatch):
    """Runs that train alone."""
    monkeypatch.setattr(train_run.Own, "evaluate", lambda *_, **how: {})
    monkeypatch.setattr(train_run.Run, "write", lambda run, _: train_run.TrainResult(Path(run.trainer.args.output_dir)))


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_in_training_finishes_the_step_saves_and_says_where(number, recipe, capsys, monkeypatch, unevaluated):
    whole = recipe(max_steps=5, learning_rate="1e-2", lora_dropout=0.1)
    assert main(["train", whole, "--output_dir", "whole"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(UnlearnTrainer, "training_step", sending(UnlearnTrainer.training_step, number, 3))
        assert main(["train", whole]) == STATUS[number]
    said = f"interrupted by {number.name} after step 3; out/checkpoint-3 is its last checkpoint, go on with --resume_from_checkpoint true"
    assert capsys.readouterr().err.endswith(f"\npeft-unlearn: {said}\n")
    assert sorted(path.name for path in Path("out").iterdir()) == ["checkpoint-3", "recipe.yaml"]
    assert main(["train", whole, "--resume_from_checkpoint", "true"]) == 0
    resumed, uncut = load_file("out/adapter_model.safetensors"), load_file("whole/adapter_model.safetensors")
    assert all(resumed[name].equal(tensor) for name, tensor in uncut.items())


def test_checkpoints_are_written_by_default_when_minutes_are_over_and_the_run_says_where(recipe, caplog, monkeypatch, unevaluated):
    with caplog.at_level("INFO"):
        assert main(["train", recipe(max_steps=3)]) == 0
        assert not checkpoint.numbered(Path("out"))  # not in seconds
        assert main(["train", recipe(max_steps=3, save_minutes=1e-9, output_dir="more")]) == 0
    assert (
        "A checkpoint goes into out every 5 minutes; a run that is cut goes on with --resume_from_checkpoint true." in caplog.messages[:3]
    )
    assert [folder.name for folder in checkpoint.numbered(Path("more"))] == ["checkpoint-3", "checkpoint-2"]  # and no more are kept


def test_a_run_whose_minutes_are_over_can_be_given_more(recipe, unevaluated):
    given = {"max_steps": 4, "learning_rate": "1e-2", "lora_dropout": 0.1}
    assert main(["train", recipe(**given, output_dir="whole")]) == 0
    assert main(["train", recipe(**given, max_minutes=1e-9)]) == 0
    assert [folder.name for folder in checkpoint.numbered(Path("out"))] == ["checkpoint-1"]
    assert main(["train", recipe(**given), "--resume_from_checkpoint", "true"]) == 0
    more, uncut = load_file("out/adapter_model.safetensors"), load_file("whole/adapter_model.safetensors")
    assert all(more[name].equal(tensor) for name, tensor in uncut.items())


OTHERS = {
    "method": {"method": "ngdiff"},
    "lora_r": {"lora_r": 8},
    "forget_dataset": {"forget_dataset": "mine.jsonl"},
    "model_name_or_path": {"model_name_or_path": "other"},
}


def test_another_runs_checkpoint_is_refused_before_a_model_is_loaded(recipe, bed, capsys, monkeypatch, unevaluated):
    shutil.copy(bed / "retain.jsonl", "mine.jsonl")
    assert main(["train", recipe(save_strategy="steps", save_steps=2, retain_dataset="mine.jsonl")]) == 0
    monkeypatch.setattr(adapters, "load_base", None)
    given = {"output_dir": "again", "retain_dataset": "mine.jsonl", "resume_from_checkpoint": "out/checkpoint-2"}
    for key, changes in OTHERS.items():
        changes = {name: str(bed / value) if value == "other" else value for name, value in changes.items()}
        refused(capsys, ["train", recipe(**{**given, **changes})], f"out/checkpoint-2 is of another run ({key} differs)")
    lines = Path("mine.jsonl").read_text().splitlines(keepends=True)
    Path("mine.jsonl").write_text("".join(lines[1:]))  # the same name, and other rows
    refused(capsys, ["train", recipe(**given)], "retain_dataset: the run that wrote out/checkpoint-2 had other rows")
    Path("mine.jsonl").write_text("".join(lines))
    Path("out/checkpoint-2/optimizer.pt").unlink()
    refused(capsys, ["train", recipe(**given)], "out/checkpoint-2 is not whole, for optimizer.pt is missing; write another one, or true")
    assert not Path("again").exists()


@pytest.mark.parametrize("number", STATUS)
def test_a_signal_while_rows_are_loaded_leaves_no_row_and_no_folder(number, recipe, capsys, tmp_path, monkeypatch, no_model):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(sources, "load_dataset", sending(sources.load_dataset, number, 2))
    assert main(["train", recipe()]) == STATUS[number]
    assert capsys.readouterr().err.endswith(f"\npeft-unlearn: interrupted by {number.name}\n")
    assert not list((tmp_path / "scratch").iterdir())
    assert not Path("out").exists()


def test_sigterm_in_a_merge_leaves_no_partial_folder(bed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(merging, "save_file", sending(merging.save_file, signal.SIGTERM, 1))
    assert main(["merge", str(bed / "lora"), "--output", "merged", "--no-evaluate"]) == 143
    assert capsys.readouterr().err.endswith("\npeft-unlearn: interrupted by SIGTERM\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_run_that_is_killed_goes_on_to_the_bytes_of_one_that_was_not(tmp_path, monkeypatch):
    """`benchmarks/kills.py` has many more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(METHODS, "ngdiff", METHODS["ngdiff"] | {"max_steps": 6})
    for name in [name for name in METHODS if name != "ngdiff"]:
        monkeypatch.delitem(METHODS, name)
    assert [line["equal"] for line in Bed(tmp_path, seed=0).killed(1, 2)] == [True]
