"""Runs with a moving rate, under a gradient scaler and under autocast: the same steps, or none."""

import math
import traceback
from dataclasses import replace

import pytest
import torch
from test_trainer import Watch, build
from test_trainer_equivalence import difference, flat, never_seen, plain, trained
from thinned import thinned
from tiny_models import tiny_llama
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from peft_unlearn.model import adapters
from peft_unlearn.training import checks
from peft_unlearn.util.errors import UserError

PROBED = {"auto_lr": True, "auto_lr_max": 100.0, "learning_rate": 0.3, "optim": "sgd", "optim_args": "momentum=0.9"}
PROBED |= {"forget_coef": 0.1, "forget_floor": 0.0}  # with these the probe does move the rate


def test_a_resumed_run_remembers_the_rate_that_the_probe_found(tmp_path):
    uncut = trained(tmp_path / "uncut", "mollm", **PROBED, max_steps=8, save_strategy="steps", save_steps=5)
    resumed = trained(tmp_path / "resumed", "mollm", **PROBED, max_steps=8, resume_from=tmp_path / "uncut" / "checkpoint-5")
    assert resumed.auto_lr.calibrated == uncut.auto_lr.calibrated > 0
    assert resumed.optimizer.param_groups[0]["lr"] == uncut.optimizer.param_groups[0]["lr"] > 0.3
    assert torch.equal(flat(resumed.student), flat(uncut.student))


@pytest.mark.parametrize(
    "changes", thinned([{"method": "mean_teacher", "retain_loss": "nll"}, {"method": "ngdiff"}, {"method": "mollm"}], every=2), ids=str
)
def test_a_rate_that_the_probe_moves_equals_the_plain_loops(changes, tmp_path):
    trainer = trained(tmp_path, **changes, **PROBED)
    student, teacher, rates = plain(trainer)
    assert rates[-1] > 0.6
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(rates[-1], rel=1e-4)
    logged = [line["learning_rate"] for line in trainer.state.log_history[:-1]]  # the rate that each step was taken at
    assert logged == pytest.approx([0.3, *rates[:-1]], rel=1e-4)
    assert (
        difference(trainer.student, adapters.adapter_parameters(student)) < 2e-5
    )  # the probe's differences are 1e2 times as rounded, 7e-6 on an EPYC
    if trainer.teacher:
        assert difference(trainer.teacher.parameters, adapters.adapter_parameters(teacher)) < 5e-6


# ------------------------------------------------------------------------------------------------------------- mixed precision


DAMPED = {
    "method": "mean_teacher",
    "optim": "sgd",
    "optim_args": "momentum=0.9",
    "learning_rate": 0.05,
    "damping": 5.0,
    "max_grad_norm": 0.01,
}


@pytest.mark.parametrize("changes", [DAMPED, {"method": "ngdiff"}, {"method": "mollm"}], ids=lambda changes: changes["method"])
def test_a_gradient_scaler_changes_nothing(changes, tmp_path):
    plain, scaled = (build(tmp_path, **changes, forget_floor=0.0) for _ in range(2))
    scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for trainer in (plain, scaled):
        trainer.train()
    assert difference(scaled.student, plain.student) < 1e-6
    for ours, theirs in zip(scaled.state.log_history[:-1], plain.state.log_history[:-1], strict=True):
        for name in ("loss", "grad_norm", "loss/forget", "grad_norm/forget", "weight/forget"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)


@pytest.mark.parametrize("changes", [DAMPED, {"method": "ngdiff"}, {"method": "mollm"}], ids=lambda changes: changes["method"])
def test_a_gradient_that_overflows_under_a_scaler_skips_the_whole_step(changes, tmp_path, monkeypatch):
    trainer = build(tmp_path, **changes, forget_floor=0.0)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    watch, calls, probed, objective = Watch(trainer), [], [], trainer.objectives[0]
    monkeypatch.setattr(trainer, "_probe", lambda *args: probed.append(trainer.state.global_step))

    def overflowing(scores, anchor):
        calls.append(None)
        if len(calls) == 2:
            scores.logps.register_hook(lambda gradient: gradient * math.inf)
        return objective.function(scores, anchor)

    trainer.objectives[0] = replace(objective, function=overflowing)
    trainer.train()
    assert torch.equal(watch.students[1], watch.students[0])
    assert not torch.equal(watch.students[2], watch.students[1])
    assert trainer.accelerator.scaler.get_scale() == 512.0
    if trainer.teacher:
        assert torch.equal(watch.teachers[1], watch.teachers[0])
    if trainer.auto_lr:
        assert probed == [0, 2, 3]
    assert torch.isfinite(flat(trainer.student)).all()
    assert all(math.isfinite(value) for line in trainer.state.log_history for name, value in line.items() if "/" in name)


def test_a_loss_that_is_not_finite_stops_the_run_under_a_scaler_too(tmp_path):
    trainer = build(tmp_path, "ngdiff")
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    objective = trainer.objectives[0]
    trainer.objectives[0] = type(objective)(
        objective.name, objective.stream, objective.coef, lambda scores, _: scores.logps.sum() * math.nan
    )
    with pytest.raises(UserError, match="learning_rate.*step 1"):
        trainer.train()


@pytest.mark.parametrize("method", ["mean_teacher", "ngdiff"])
def test_bf16_autocast_leaves_adapters_and_gradients_in_fp32(method, tmp_path):
    trainer = build(tmp_path / "bf16", method, bf16=True, forget_floor=0.0)
    seen = set()
    trainer.objectives[:] = [
        replace(o, function=lambda scores, anchor, o=o: (seen.add(scores.logps.dtype), o.function(scores, anchor))[1])
        for o in trainer.objectives
    ]
    trainer.train()
    assert seen == {torch.float32}
    assert {p.dtype for p in trainer.student + (trainer.teacher.parameters if trainer.teacher else [])} == {torch.float32}
    assert trainer._gradients.matrix.dtype == torch.float32
    full = build(tmp_path / "fp32", method, forget_floor=0.0)
    full.train()
    ours, theirs = trainer.state.log_history[0]["grad_norm/forget"], full.state.log_history[0]["grad_norm/forget"]
    assert 1e-6 < abs(ours / theirs - 1) < 0.02  # autocast was on, and is no more than rounding


def test_a_step_that_a_scaler_skips_moves_neither_multiplier_nor_early_stopping(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "EVERY", 1)
    monkeypatch.setattr(checks, "SHARE", math.inf)
    trainer = build(tmp_path, "graddiff", retain_bound=1.0, stop_at="never_seen", never_seen_model=never_seen())
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    watch, checked, calls, objective = [], [], [], trainer.objectives[0]
    monkeypatch.setattr(trainer.early_stop, "check", lambda *means: checked.append(means))

    class WatchState(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            watch.append((trainer.lagrangian.multiplier, len(checked)))

    def overflowing(scores, anchor):
        calls.append(None)
        if len(calls) == 2:
            scores.logps.register_hook(lambda gradient: gradient * math.inf)
        return objective.function(scores, anchor)

    trainer.objectives[0] = replace(objective, function=overflowing)
    trainer.add_callback(WatchState())
    trainer.train()
    assert watch[1] == watch[0]
    assert [steps for _, steps in watch] == [1, 1, 2, 3]
    assert len({multiplier for multiplier, _ in watch}) == 3


@pytest.mark.parametrize("base", thinned([torch.bfloat16, torch.float32], every=2))
def test_inner_layers_are_read_under_autocast_too(base, tmp_path):
    """accelerate hands the hidden states of a 16-bit model on in fp32, and norm and head are still in 16 bits."""
    model = tiny_llama().to(base)
    trainer = build(
        tmp_path, "mollm", model, bf16=True, logit_lens_coef=0.3, stop_at="never_seen", never_seen_model=never_seen(), max_steps=2
    )
    trainer.train()
    assert all(math.isfinite(line["grad_norm"]) for line in trainer.state.log_history if "grad_norm" in line)


class HostReads(TorchDispatchMode):
    """Operations at which a host waits for a GPU: a scalar that is read, and sizes that depend on values."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.masked_select.default)
        waits += (torch.ops.aten.masked_scatter_backward.default,)  # which selects within
        if func in waits:
            files = [frame.filename for frame in traceback.extract_stack()]
            self.seen.append(next((name for name in reversed(files) if "transformers" in name or "peft_unlearn" in name), ""))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", thinned(["mean_teacher", "ngdiff", "mollm", "dpo", "undial", "pdu", "rmu"], every=3))
def test_nothing_of_ours_in_a_micro_batch_makes_the_host_wait_for_a_device(method, tmp_path):
    trainer = build(tmp_path, method)
    seen, step, combine = [], trainer.training_step, trainer._combine

    def watched(model, inputs, items):
        trainer._combine = lambda: None  # where the Gram matrix is read, once a step
        with HostReads() as found:
            loss = step(model, inputs, items)
        combine()
        seen.append([name for name in found.seen if "masking_utils" not in name])  # transformers looks whether rows are packed
        return loss

    trainer.training_step = watched
    trainer.train()
    assert seen
    first, *later = seen
    assert all("lm_head" in name for name in first), first  # once a model, whether its head stands alone
    assert later
    assert not any(later), later[0]
