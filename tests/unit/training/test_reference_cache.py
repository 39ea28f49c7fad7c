"""Kept states of the reference are those that it would give in each step, and spare its forwards."""

import pytest
import torch
from test_trainer import build
from test_trainer_equivalence import HOLDOUT, difference, never_seen

from peft_unlearn.model import adapters
from peft_unlearn.model.logprobs import score
from peft_unlearn.training import reference_cache
from peft_unlearn.training.reference_cache import Reference, References


def run(folder, monkeypatch, *, kept, **given):
    monkeypatch.setattr(reference_cache, "OFTEN", 0.0 if kept else 1e9)
    trainer = build(folder, "mollm", **given)
    views, view = [], adapters.view

    def counted(model, name):
        views.append((name, trainer.state.global_step))
        return view(model, name)

    monkeypatch.setattr(adapters, "view", counted)
    trainer.train()
    monkeypatch.setattr(adapters, "view", view)
    return trainer, [step for name, step in views if name in ("given", "reference")]


@pytest.mark.parametrize(
    "given",
    [{}, {"size": 4, "accumulation": 2}, {"stop_at": "never_seen", "holdout_dataset": HOLDOUT, "divergence": "qkl"}, {"bf16": True}],
    ids=["plain", "accumulated", "early_stop", "bf16"],
)
def test_a_run_with_kept_states_is_the_run_without(given, tmp_path, monkeypatch):
    if "stop_at" in given:
        given = given | {"never_seen_model": never_seen()}
    with_kept, early = run(tmp_path / "kept", monkeypatch, kept=True, **given)
    without, often = run(tmp_path / "live", monkeypatch, kept=False, **given)
    # bf16 itself is .03 from fp32 here
    assert difference(with_kept.student, without.student) < (0.1 if "bf16" in given else 2e-6)
    assert with_kept.state.log_history[-2]["loss/kl"] > 0
    assert set(early) == {0}
    assert set(often) == set(range(with_kept.state.global_step))


def test_states_are_those_of_a_forward_over_the_same_rows(tmp_path):
    trainer = build(tmp_path, "mollm")
    rows = trainer.sets["retain"]
    with adapters.view(trainer.model, "reference"):
        kept = Reference(trainer.model, rows, 3, "retain")
        batch = trainer.collate([{"retain": rows[i]} for i in (4, 0, 2)])["retain"]
        with torch.no_grad():
            expected = score(trainer.model, batch)
    found = kept.at([4, 0, 2], torch.device("cpu"))
    assert torch.allclose(found.states, expected.states, atol=1e-6)
    assert torch.allclose(found.head.logits(found.states), expected.head.logits(expected.states), atol=1e-5)


def test_nothing_is_kept_where_it_does_not_pay(tmp_path, monkeypatch):
    trainer = build(tmp_path, "mollm")
    rows = len(trainer.sets["retain"])
    cpu = torch.device("cpu")

    def kept(drawn):
        return References(trainer.model, trainer.sets, 4).at("reference", "retain", [0], drawn, cpu)

    assert kept(rows) is None
    assert kept(2 * rows) is not None
    monkeypatch.setattr(reference_cache, "LIMIT", 100)
    assert kept(2 * rows) is None
