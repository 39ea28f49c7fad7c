"""Components come back from a checkpoint as they were; what a checkpoint lacks is said by the key that asks for it."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_trainer import build
from test_trainer_equivalence import HOLDOUT, never_seen
from torch import nn

from peft_unlearn.training import checkpoint
from peft_unlearn.training.auto_lr import AutoLR
from peft_unlearn.training.early_stop import EarlyStop
from peft_unlearn.training.lagrangian import Lagrangian
from peft_unlearn.training.pace import Pace
from peft_unlearn.training.sam import Sam
from peft_unlearn.training.teacher import Teacher
from peft_unlearn.util.errors import UserError


def components(value: float) -> dict:
    """All that there are, whatever each remembers made of `value`."""
    adapter = nn.Parameter(torch.zeros(3))
    sam = Sam([adapter], [adapter], 0.1)
    sam.gradient.matrix.fill_(value)
    stop = EarlyStop([np.array([-1.0, -2.0])], [0], 0.9)
    stop.holdout_shift, stop.correction_lowest, stop.correction_rest, stop.within_tolerance = value, value / 2, value / 3, round(value)
    stop.pace = Pace(value / 4, 1 + value, value / 5, 3 * round(value), (1, round(value)), (0, 2))
    return {
        "teacher_decay": Teacher([torch.full((2, 2), value), torch.full((3,), -value)], 0.9),
        "auto_lr": AutoLR(1e-2, 10, calibrated=value),
        "retain_bound": Lagrangian(value, 1.0, 1.0),
        "sam_rho": sam,
        "stop_at": stop,
    }


def test_each_component_comes_back_bit_for_bit_from_one_file(tmp_path):
    kept, fresh = components(1 / 7), components(2.0)
    checkpoint.write(kept, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]
    checkpoint.restore(fresh, tmp_path)
    for key, part in kept.items():
        for name, value in part.state_dict().items():
            assert torch.equal(fresh[key].state_dict()[name], value), (key, name)
    assert fresh["auto_lr"].calibrated == 1 / 7
    assert fresh["stop_at"].within_tolerance == 0
    assert fresh["stop_at"].pace == kept["stop_at"].pace
    assert {name.partition(".")[0] for name in load_file(tmp_path / checkpoint.FILE)} == set(kept)


@pytest.mark.parametrize("key", components(1.0))
def test_a_component_that_the_checkpoints_run_did_not_have_is_named_by_its_key(key, tmp_path):
    kept = components(1.0)
    del kept[key]
    checkpoint.write(kept, tmp_path)
    checkpoint.restore(kept, tmp_path)
    with pytest.raises(UserError, match=f"^{key}: the run that wrote .* did not have it; set it as in that run, or start a new run.$"):
        checkpoint.restore(components(2.0), tmp_path)


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("sam_rho", {"sam_rho": 0.1}),
        ("stop_at", {"stop_at": "never_seen", "holdout_dataset": HOLDOUT}),
        ("retain_bound", {"retain_bound": 1.0}),
        ("teacher_decay", {"teacher_decay": 0.9}),
        ("auto_lr", {"auto_lr": True}),
    ],
)
def test_a_run_is_not_resumed_with_a_feature_newly_on(key, changes, tmp_path):
    build(tmp_path, save_strategy="steps", save_steps=2, max_steps=2).train()
    known = {"never_seen_model": never_seen()} if "stop_at" in changes else {}
    with pytest.raises(UserError, match=f"^{key}: the run that wrote "):
        build(tmp_path, **changes, **known).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
