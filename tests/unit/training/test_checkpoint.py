"""Checkpoints are whole or passed over, go on with the run that wrote them alone, and bring its components back as they were."""

import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from kills import DAMAGE
from safetensors.torch import load_file, save_file
from test_trainer import Watch, build
from test_trainer_equivalence import HOLDOUT, LORA, RETAIN, flat, never_seen
from torch import nn

from peft_unlearn.training import checkpoint
from peft_unlearn.training.auto_lr import AutoLR
from peft_unlearn.training.budget import Budget
from peft_unlearn.training.damage import Damage
from peft_unlearn.training.early_stop import EarlyStop
from peft_unlearn.training.lagrangian import Lagrangian
from peft_unlearn.training.pace import Pace
from peft_unlearn.training.sam import Sam
from peft_unlearn.training.teacher import Teacher
from peft_unlearn.util import manifest
from peft_unlearn.util.errors import UserError


def components(value: float) -> dict:
    """All that there are, whatever each remembers made of `value`."""
    adapter = nn.Parameter(torch.zeros(3))
    sam = Sam([adapter], [adapter], 0.1)
    sam.gradient.fill_(value)
    stop = EarlyStop([np.array([-1.0, -2.0])], [0], 0.9)
    stop.holdout_shift, stop.correction_lowest, stop.correction_rest, stop.within_tolerance = value, value / 2, value / 3, round(value)
    stop.pace = Pace(value / 4, value / 3, 1 + value, 2 + value, value / 5, 3 * round(value), (1, round(value)), (0, 2), (-1, 1), 5)
    spent, damage = Budget(1.0, None, RETAIN, "retain_dataset", 8), Damage(64)
    spent.spent, spent.mean, spent.kept = value, value / 2, value / 3
    damage.slower, damage.step, damage.start, damage.returned = value, round(value), value, [(5, 2), (9, 8)]
    damage.recent.extend([value, 0.1])
    return {
        "teacher_decay": Teacher([torch.full((2, 2), value), torch.full((3,), -value)], 0.9),
        "auto_lr": AutoLR(1e-2, 10, calibrated=value),
        "retain_bound": Lagrangian(value, 1.0, 1.0),
        "sam_rho": sam,
        "stop_at": stop,
        "retain_kl_max": spent,
        "damage": damage,
    }


def test_each_component_comes_back_bit_for_bit_from_one_file(tmp_path):
    kept, fresh = components(1 / 7), components(2.0)
    good = {"student": [torch.ones(3)], "optimizer": {"state": {0: {"step": 3}}}, "rates": [1e-3]}
    checkpoint.write(kept, good, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([checkpoint.FILE, checkpoint.GOOD])
    assert str(checkpoint.restore(fresh, tmp_path)) == str(good)
    for key, part in kept.items():
        for name, value in part.state_dict().items():
            assert torch.equal(fresh[key].state_dict()[name], value), (key, name)
    assert fresh["auto_lr"].calibrated == 1 / 7
    assert fresh["stop_at"].within_tolerance == 0
    assert fresh["stop_at"].pace == kept["stop_at"].pace
    assert (fresh["damage"].returned, fresh["damage"].recent) == (kept["damage"].returned, kept["damage"].recent)
    assert {name.partition(".")[0] for name in load_file(tmp_path / checkpoint.FILE)} == set(kept)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of mean_teacher with checkpoints 2, 3 and 4, and its adapter after each step."""
    folder = tmp_path_factory.mktemp("run")
    trainer = build(folder, "mean_teacher", save_strategy="steps", save_steps=1, save_total_limit=3)
    watch = Watch(trainer)
    trainer.train()
    return folder, watch.students


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    return tmp_path / "run"


def test_checkpoints_stand_whole_under_their_names_and_nothing_else_is_left(run):
    assert sorted(path.name for path in run[0].iterdir()) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]
    for folder in checkpoint.numbered(run[0]):
        kept = manifest.read(folder)
        assert (kept["processes"], kept["step"]) == (1, int(folder.name[-1]))


def test_a_run_that_ended_is_at_its_end_and_takes_no_step_more(run, copy):
    again = build(copy, "mean_teacher")
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    assert torch.equal(flat(again.student), run[1][-1])


@pytest.mark.parametrize("how", DAMAGE)
def test_each_file_that_is_damaged_is_told_by_its_name_and_the_checkpoint_before_is_taken(how, copy, caplog):
    last = copy / "checkpoint-4"
    files = sorted(last.iterdir())
    assert {path.name for path in files} >= {"adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", checkpoint.FILE}
    for path in files:
        whole = path.read_bytes()
        data = DAMAGE[how](whole, random.Random(0))
        path.unlink() if data is None else path.write_bytes(data)
        assert checkpoint.chosen(True, copy) == copy / "checkpoint-3"
        assert f"checkpoint-4 is passed over, for {path.name} " in caplog.messages[-1]
        path.write_bytes(whole)
    assert checkpoint.chosen(True, copy) == last


def fewer_tensors(path: Path) -> None:
    kept = dict(sorted(load_file(path).items())[4:])
    save_file(kept, path)


RAN: list[int] = []


def ran() -> None:
    RAN.append(1)


class Pickled:
    def __reduce__(self):
        return ran, ()


HARM = {
    "optimizer removed": lambda folder: (folder / "optimizer.pt").unlink(),
    "scheduler removed": lambda folder: (folder / "scheduler.pt").unlink(),
    "random states cut": lambda folder: (folder / "rng_state.pth").write_bytes((folder / "rng_state.pth").read_bytes()[:-100]),
    "adapter with four tensors less": lambda folder: fewer_tensors(folder / "adapter_model.safetensors"),
    "components of nothing": lambda folder: save_file({}, folder / checkpoint.FILE),
    "an optimizer of a pickle": lambda folder: (folder / "optimizer.pt").write_bytes(pickle.dumps(Pickled())),
    "state emptied": lambda folder: (folder / "trainer_state.json").write_text(""),
    "no manifest": lambda folder: (folder / manifest.FILE).unlink(),
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("name", HARM)
def test_one_that_is_damaged_is_named_and_passed_over(name, copy, caplog):
    HARM[name](copy / "checkpoint-4")
    (copy / "checkpoint-999").mkdir()
    (copy / "checkpoint-1000").write_text("")
    assert checkpoint.chosen(True, copy) == copy / "checkpoint-3"
    first, second = caplog.messages
    assert "checkpoint-999 is passed over, for manifest.json is missing" in first
    assert "checkpoint-4 is passed over, for " in second
    with pytest.raises(UserError, match=r"^resume_from_checkpoint: .*checkpoint-4 is not whole, for .*; write another one, or true for"):
        checkpoint.chosen(str(copy / "checkpoint-4"), copy)
    assert not RAN


def test_the_last_whole_one_goes_on_to_the_same_bits_and_the_damaged_one_is_replaced(run, copy):
    fewer_tensors(copy / "checkpoint-4" / "adapter_model.safetensors")
    shutil.copytree(copy / "checkpoint-3", copy / "checkpoint-77")  # says that it is of another step
    again = build(copy, "mean_teacher", save_strategy="steps", save_steps=1)
    again.train(resume_from_checkpoint=True)
    assert torch.equal(flat(again.student), run[1][-1])
    assert manifest.read(copy / "checkpoint-4")["step"] == 4
    assert sorted(path.name for path in copy.iterdir()) == ["checkpoint-3", "checkpoint-4", "checkpoint-77"]


def test_without_a_whole_one_a_cut_run_begins_anew_and_a_finished_one_is_left_alone(copy, caplog):
    for folder in checkpoint.numbered(copy):
        (folder / manifest.FILE).unlink()
    assert checkpoint.chosen(True, copy) is None
    assert caplog.messages[-1].endswith("holds no checkpoint that is whole, so the run begins anew.")
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds no checkpoint that is whole, leave the key out"):
        checkpoint.chosen(True, copy)
    with pytest.raises(UserError, match="holds no checkpoint that is whole, leave the key out"):
        checkpoint.chosen(True, copy / "nowhere")


def test_a_write_that_fails_leaves_the_checkpoints_as_they_were(copy, monkeypatch):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}

    def full(*args):
        raise RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/1: file write failed")

    monkeypatch.setattr(checkpoint, "save_file", full)
    again = build(copy, "mean_teacher", save_strategy="steps", save_steps=1)
    with pytest.raises(OSError, match="no room is left"):
        again.train(resume_from_checkpoint=str(copy / "checkpoint-3"))
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


OTHERS = {
    "method": {"method": "ngdiff"},
    "sam_rho": {"sam_rho": 0.1},
    "stop_at": {"stop_at": "never_seen", "holdout_dataset": HOLDOUT, "never_seen_model": never_seen},
    "per_device_train_batch_size": {"size": 4},
    "teacher_decay": {"teacher_decay": 0.9},
    "auto_lr": {"auto_lr": True},
    "seed": {"seed": 7},
    "optim": {"optim": "sgd", "optim_args": None},
    "lora_r": {"peft_config": type(LORA)(r=8, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")},
    "lora_target_modules": {"peft_config": type(LORA)(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")},
    "retain_dataset": {"retain_dataset": RETAIN.select(range(20))},
}


@pytest.mark.parametrize("key", OTHERS)
def test_a_run_that_is_another_does_not_go_on_with_it(key, run, tmp_path):
    changes = {name: value() if name == "never_seen_model" else value for name, value in OTHERS[key].items()}
    with pytest.raises(UserError, match=f"^{key}: the run that wrote .*checkpoint-4 had .*, or start a new run.$"):
        build(tmp_path, **{"method": "mean_teacher", **changes}).train(resume_from_checkpoint=str(run[0] / "checkpoint-4"))


def test_another_number_of_processes_does_not_go_on_with_it(run):
    with pytest.raises(UserError, match=r"is of a run on 1 process\(es\) and this one has 2; launch 1, or start a new run"):
        checkpoint.check(run[0] / "checkpoint-4", {"processes": 2})


def test_a_checkpoint_of_another_version_is_refused(run, tmp_path, monkeypatch):
    folder = run[0] / "checkpoint-4"
    checkpoint.check(folder, {"processes": 1})
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    with pytest.raises(UserError, match="^resume_from_checkpoint: .*checkpoint-4 was written by another version"):
        checkpoint.check(folder, {"processes": 1})
