"""A run that diverges or loses its retain set goes back to its last good state, bit for bit, and ends in one."""

import math
from dataclasses import replace

import pytest
import torch
from test_trainer import build
from test_trainer_equivalence import HOLDOUT, flat, never_seen
from transformers import TrainerCallback

from peft_unlearn.training import damage
from peft_unlearn.util.errors import UserError


def spoil(trainer, steps, factor=math.nan):
    """Have the forget loss of some steps, by their numbers from 1, multiplied."""
    objective = trainer.objectives[0]

    def spoiled(scores, anchor):
        return objective.function(scores, anchor) * (factor if trainer.state.global_step + 1 in steps else 1.0)

    trainer.objectives[0] = replace(objective, function=spoiled)
    return trainer


class States(TrainerCallback):
    """All that a step moves, before each step, and the rate of the step before."""

    def __init__(self, trainer):
        self.trainer, self.seen, self.rates = trainer, [], []
        trainer.add_callback(self)

    def on_step_begin(self, *args, **kwargs):
        self.seen.append(state(self.trainer))
        self.rates.append(self.trainer.optimizer.param_groups[0]["lr"])


def state(trainer) -> dict:
    found = {"student": flat(trainer.student).clone()}
    found |= {f"moments {name}": tensor.clone() for name, tensor in moments(trainer).items()}
    for key, part in trainer.components.going_back().items():
        found |= {f"{key}.{name}": tensor.clone() for name, tensor in part.state_dict().items()}
    return found


def moments(trainer) -> dict:
    states = trainer.optimizer.state_dict()["state"]
    return {f"{p} {name}": value for p, of_p in states.items() for name, value in of_p.items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


EVERYTHING = {
    "mean_teacher": {"lr_scheduler_type": "linear"},
    "ngdiff": {"auto_lr_steps": 1, "auto_lr_max": 1e-3},
    "pdu": {"retain_bound": 0.1},
    "mollm": {"sam_rho": 0.1, "stop_at": "never_seen", "never_seen_model": never_seen(), "holdout_dataset": HOLDOUT},
}


@pytest.mark.parametrize("method", EVERYTHING)
def test_a_step_whose_loss_is_not_finite_is_undone_with_all_that_steps_move(method, tmp_path, monkeypatch):
    monkeypatch.setattr(damage, "EVERY", 2)
    trainer = spoil(build(tmp_path, method, max_steps=7, **EVERYTHING[method]), {4})
    watch = States(trainer)
    trainer.train()
    assert trainer.components.damage.returned == [(4, 2)]
    assert same(watch.seen[4], watch.seen[2])  # before steps 5 and 3
    assert not same(watch.seen[5], watch.seen[4])
    assert trainer.state.global_step == 7
    assert all(math.isfinite(line["loss"]) for line in trainer.state.log_history if "loss" in line)
    if method == "mean_teacher":  # the schedule goes on, at half
        assert watch.rates[4:] == pytest.approx([watch.rates[0] * left / 7 / 2 for left in (3, 2, 1)])
    if trainer.sam is not None:
        assert trainer.sam.gradient.isfinite().all()


@pytest.mark.parametrize("auto_lr", [True, False])
def test_a_run_goes_back_three_times_at_half_the_rate_each_and_then_ends_in_its_last_good_state(auto_lr, tmp_path, monkeypatch):
    monkeypatch.setattr(damage, "EVERY", 2)
    trainer = spoil(build(tmp_path, "ngdiff", max_steps=20, auto_lr=auto_lr), set(range(4, 21)))
    watch = States(trainer)
    with pytest.raises(
        UserError, match=r"^learning_rate: a loss .* NaN or infinite at step 7, after 3 returns .* the adapter of step 2 is kept"
    ):
        trainer.train()
    assert same(state(trainer), watch.seen[2])
    assert watch.rates[4:7] == pytest.approx([watch.rates[2] / 2**back for back in (1, 2, 3)])


def test_a_retain_set_that_is_lost_brings_the_adapter_back_that_had_it(tmp_path, monkeypatch):
    """At a rate of 1 gradient ascent takes everything with it, in finite numbers. The random model has little to lose: one nat is enough here."""
    monkeypatch.setattr(damage, "LEAST", 1.0)
    trainer = build(tmp_path, "graddiff", retain_loss="none", learning_rate=1.0, max_steps=40)
    with pytest.raises(UserError, match=r"^learning_rate: the retain set was lost, its loss rose from 4\.\d+ to [\d.]+ nats a token"):
        trainer.train()
    assert len(trainer.components.damage.returned) == 3
    assert -max(line["logp/retain"] for line in trainer.state.log_history if "logp/retain" in line) < trainer.components.damage.limit()
    found = trainer.evaluate({"retain": trainer.sets["retain"]})
    assert found["eval_retain_loss"] < trainer.components.damage.limit()


def test_the_last_step_is_looked_at_as_well(tmp_path):
    trainer = build(tmp_path, "graddiff", learning_rate=1e30, max_grad_norm=0.0, max_steps=1)
    before = flat(trainer.student).clone()
    with pytest.raises(UserError, match="NaN or infinite at step 1; the adapter of step 0 is kept"):
        trainer.train()
    assert torch.equal(flat(trainer.student), before)


def test_a_resumed_run_goes_back_to_where_the_uncut_one_does(tmp_path):
    """To a state from before the checkpoint."""
    how = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole = spoil(build(tmp_path / "whole", "mean_teacher", **how), {5})
    whole.train()
    assert whole.components.damage.returned == [(5, 0)]
    resumed = spoil(build(tmp_path / "resumed", "mean_teacher", **how), {5})
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert same(state(resumed), state(whole))
    again = build(tmp_path / "again", "mean_teacher", **how)  # the last checkpoint knows of the return
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert again.components.damage.returned == [(5, 0)]
    assert again.components.damage.slower == 0.5


@pytest.mark.parametrize("method", ["ngdiff", "mollm"])
def test_a_run_in_which_nothing_happens_ends_at_the_same_bits_without_damage_control(method, tmp_path, monkeypatch):
    watched = build(tmp_path, method, max_steps=6)
    watched.train()
    monkeypatch.setattr(damage.Damage, "wrong", lambda *_, **how: None)
    monkeypatch.setattr(damage.Damage, "due", lambda *_: False)
    monkeypatch.setattr(damage, "slowed", lambda scheduler, _: scheduler)
    plain = build(tmp_path, method, max_steps=6)
    plain.train()
    assert same(state(watched) | {"damage": torch.zeros(1)}, state(plain) | {"damage": torch.zeros(1)})


@pytest.mark.parametrize(("vocabulary", "start", "lost"), [(128_256, 2.0, 6.88), (1536, 0.02, 4.02), (64, 4.2, 8.2), (None, 2.0, 1e9)])
def test_a_retain_set_is_lost_half_the_way_to_guessing_for_three_steps_of_five(vocabulary, start, lost):
    watched = damage.Damage(vocabulary)
    assert watched.wrong(start, finite=True) is None
    for loss in (lost + 0.1, lost + 0.1, lost - 0.1, start, lost + 9.0):  # two of five are no more than noise
        assert (watched.wrong(loss, finite=True) is None) == (loss != lost + 9.0 or vocabulary is None)
    assert watched.wrong(start, finite=False) == damage.NOT_FINITE
