"""`train --processes`: what one process would do, in one sentence where it is wrong, and nobody left where one is gone."""

import gc
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from peft_unlearn.cli import main, processes
from peft_unlearn.util import interrupts, launched
from peft_unlearn.util.errors import UserError

SETS = {
    "model_name_or_path": "base",
    "forget_dataset": "forget.jsonl",
    "retain_dataset": "retain.jsonl",
    "holdout_dataset": "holdout.jsonl",
}
SETTINGS = {
    "method": "graddiff",
    "stop_at": "auto",  # it checks
    "max_steps": 2,
    "use_cpu": True,
    "dtype": "float32",
    "lora_r": 4,
    "disable_tqdm": True,
    "per_device_eval_batch_size": 2,
}


@pytest.fixture
def recipe(bed, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    values = {key: str(bed / value) for key, value in SETS.items()} | SETTINGS | {"output_dir": "run"}
    Path("recipe.yaml").write_text(yaml.safe_dump(values))
    return Path("recipe.yaml")


@pytest.mark.parametrize(
    ("words", "number", "rest"),
    [
        ([], 1, []),
        (["--processes", "2"], 2, []),
        (["--seed", "3", "--processes=4", "--method", "npo"], 4, ["--seed", "3", "--method", "npo"]),
    ],
)
def test_the_number_is_taken_out_of_the_words(words, number, rest):
    assert processes.taken(words) == (number, rest)


@pytest.mark.parametrize("said", ["0", "-1", "two", "1.5", ""])
def test_what_is_no_number_is_refused(said):
    with pytest.raises(UserError, match=f"^processes: '{said}' is no number of processes"):
        processes.taken(["--processes", said])


def test_a_launcher_under_a_launcher_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="^processes: a launcher has started this process already"):
        processes.taken(["--processes", "2"])


def test_each_process_needs_a_gpu_where_there_are_some(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="^processes: each takes a GPU and this machine shows 1"):
        processes.check(2, on_cpu=False)
    processes.check(2, on_cpu=True)


def test_a_wrong_key_is_one_sentence_before_any_process_is_started(recipe, capfd, monkeypatch):
    monkeypatch.setattr(processes, "launch", None)
    assert main(["train", str(recipe), "--processes", "2", "--retain_los", "nll"]) == 2
    assert capfd.readouterr().err == "peft-unlearn: error: retain_los: there is no such key, did you mean retain_loss?\n"
    assert not Path("run").exists()


def refused() -> None:
    os._exit(2)


def loses_one() -> None:
    """The second process dies, and the first one waits for it."""
    torch.distributed.init_process_group("gloo")
    if os.environ["RANK"] == "1":
        time.sleep(0.5)  # until the first one waits
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        torch.distributed.all_reduce(torch.zeros(1))
    except RuntimeError as error:
        os.write(2, f"{launched.is_loss(error)} {launched.is_loss(RuntimeError('a bug'))} {launched.loss(error)}\n".encode())
    time.sleep(1)  # as what a command unwinds takes time
    os._exit(1)


def status(number: int, program) -> int:
    with interrupts.raised(), pytest.raises(SystemExit) as stop:  # the launcher sets signal handlers
        processes.launch(number, program)
    return stop.value.code


def test_the_status_is_that_of_the_process_that_failed_and_the_launcher_says_nothing(capfd):
    assert status(2, refused) == 2
    assert capfd.readouterr().err == ""


def test_a_process_that_dies_ends_all_and_is_named(capfd):
    began = time.monotonic()
    assert status(2, loses_one) == 1
    assert time.monotonic() - began < 20
    said = capfd.readouterr().err
    assert said.startswith("True False peft-unlearn: process 0 of 2 cannot reach another one, so it ends")
    assert "process 1 of 2 was ended by SIGKILL, and so were the others" in said
    assert "Traceback" not in said


@pytest.mark.long
def test_two_processes_write_the_report_of_one(recipe):
    gc.collect()
    gc.freeze()  # what this process has of threads from other tests, a fork must not take down
    for number, size, name in ((1, "4", "one"), (2, "2", "two")):
        with interrupts.raised():
            processes.launch(number, trains, ["train", str(recipe), "--output_dir", name, "--per_device_train_batch_size", size])
    one, two = (json.loads(Path(name, "report.json").read_text())["results"] for name in ("one", "two"))
    assert repr({name: views["before"] for name, views in two.items()}) == repr({name: views["before"] for name, views in one.items()})
    for name in one:
        assert two[name]["after"].keys() == one[name]["after"].keys()
        assert two[name]["after"]["loss"]["rows"] == pytest.approx(one[name]["after"]["loss"]["rows"], rel=1e-4)


def trains(words: list[str]) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # what this process has from another test
    if status := main(words):
        os._exit(status)
