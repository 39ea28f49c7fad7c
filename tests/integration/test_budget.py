"""`retain_kl_max`: measured on rows that are not trained on, by their dense logits, and kept by every method whatever it takes."""

import contextlib
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from test_damage import same, state
from test_trainer import build
from test_trainer_equivalence import HOLDOUT, flat, never_seen, rows

from peft_unlearn.report.advice import training
from peft_unlearn.training import budget, checks
from peft_unlearn.training.early_stop import EarlyStop
from peft_unlearn.training.safety import Safety
from peft_unlearn.training.trainer import UnlearnTrainer
from peft_unlearn.workflows import TrainRequest, train

RETAIN = rows(32, 2)
QUICK = {"retain_dataset": RETAIN, "learning_rate": 1e-2, "max_steps": 8}


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """A check after every second step."""
    monkeypatch.setattr(budget, "EVERY", 2)
    monkeypatch.setattr(budget, "SHARE", 1e9)


def divergences(trainer: UnlearnTrainer) -> np.ndarray:
    """Of each row that is left out: the mean over its labels of KL(reference || student), from plain forwards of one row."""
    found = []
    for row in trainer.budget.rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        with torch.no_grad():
            trainer.model.eval()
            student = trainer.model(ids).logits[0, :-1].double().log_softmax(-1)
            with trainer.model.disable_adapter():
                reference = trainer.model(ids).logits[0, :-1].double().log_softmax(-1)
        found.append((reference.exp() * (reference - student)).sum(-1)[labels[1:] != -100].mean().item())
    return np.array(found)


def upper(found: np.ndarray) -> float:
    """Where each block is one row."""
    return float(found.mean() + 3 * found.std(ddof=1) / len(found) ** 0.5)


def test_blocks_that_differ_more_than_their_rows_do_say_less(monkeypatch):
    spending = budget.Budget(1.0, None, RETAIN, [row // 4 for row in range(32)], 8)
    rows = [0.1 * (block % 2) for block in range(8) for _ in range(4)]
    monkeypatch.setattr(budget, "retain_kl", lambda *_, **how: {"rows": rows})
    spending.measure(contextlib.nullcontext)
    assert spending.mean == pytest.approx(0.05)
    assert spending.spent == pytest.approx(0.05 + 3 * np.std([0, 0.1] * 4, ddof=1) / 8**0.5)
    rows[3] = math.nan
    spending.measure(contextlib.nullcontext)
    assert not spending.inside


def test_rows_that_are_left_out_are_not_trained_on_and_stand_together():
    for count in (32, 47, 96, 3960):
        out = list(budget.left_out(count))
        assert out == sorted(set(out))
        assert len(out) % 8 == 0
        assert min(count // 8, 64) <= len(out) <= min(count // 4, 64)
        assert min(out) >= 0
        assert max(out) < count
    assert list(budget.left_out(128)) == [8 * block * 2 + 6 + i for block in range(8) for i in range(4)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(32, 400), st.randoms())
def test_what_is_left_out_are_whole_subjects_the_nearest_of_each_part(sizes, enough, random):
    subjects = [n for n, size in enumerate(sizes) for _ in range(size)]
    if len(subjects) < 32:
        subjects += [subjects[-1]] * enough
    near = random.sample(range(10**6), len(subjects))
    out, count = budget.left_out(len(subjects), subjects, near), len(set(subjects))
    assert list(out) == sorted(out)
    if count < 6 or count == len(subjects):
        assert out == budget.left_out(len(subjects))
        return
    trained = {subject for row, subject in enumerate(subjects) if row not in out}
    assert trained.isdisjoint(out.values())
    assert [subjects[row] for row in out] == list(out.values())
    assert 3 <= len(set(out.values())) <= max(3, count // 4)
    assert subjects[near.index(max(near))] in out.values()
    nearer = sorted((max(n for n, s in zip(near, subjects, strict=True) if s == subject) for subject in trained), reverse=True)
    taken = sorted((max(n for n, s in zip(near, subjects, strict=True) if s == subject) for subject in set(out.values())), reverse=True)
    for k, nearest in enumerate(taken):  # nearer than it are whole parts, of equal sizes
        assert abs(k + sum(other > nearest for other in nearer) - k * count / len(taken)) < 1


def test_near_are_rows_with_a_word_that_many_forget_rows_and_few_retain_rows_have():
    forget = Dataset.from_dict({"input_ids": [[1, 7, 30], [1, 7, 31], [1, 8, 32], [1, 9, 33]]})
    retain = Dataset.from_dict({"input_ids": [[1, 7, 40], [1, 8, 41], [1, 42], [1, 43]]})
    assert budget.nearness(forget, retain) == pytest.approx([math.log(4) / 2, math.log(4) / 4, 0, 0])


def test_rows_of_a_subject_are_not_trained_on_where_one_of_them_is_measured_on(tmp_path):
    retain = RETAIN.add_column("author", [row // 4 for row in range(32)])
    trainer = build(tmp_path, "npo", retain_kl_max=1e3, **(QUICK | {"retain_dataset": retain}))
    measured, trained = set(trainer.budget.parts.tolist()), {row["author"] for row in trainer.trained["retain"]}
    assert len(measured) == 3
    assert measured | trained == set(range(8))
    assert measured.isdisjoint(trained)
    trainer.train()
    found, rows = [divergences(trainer)[trainer.budget.parts == author].mean() for author in sorted(measured)], divergences(trainer)
    error = max(np.std(found, ddof=1) / 3**0.5, rows.std(ddof=1) / len(rows) ** 0.5)
    assert trainer.budget.spent == pytest.approx(rows.mean() + 2 * error, rel=1e-3)


def test_too_few_subjects_leave_blocks_and_three_errors_whatever_their_numbers_are(tmp_path):
    retain = RETAIN.add_column("author", [row // 8 for row in range(32)])
    trainer = build(tmp_path, "npo", retain_kl_max=1e3, **(QUICK | {"retain_dataset": retain}))
    assert list(budget.left_out(32, retain["author"])) == list(budget.left_out(32))
    assert trainer.budget.errors == 3


def test_what_is_spent_is_the_mean_and_three_standard_errors_on_rows_left_out(tmp_path):
    trainer = build(tmp_path, "npo", retain_kl_max=1e3, **QUICK)
    out = budget.left_out(32)
    assert trainer.budget.rows.to_list() == RETAIN.select(out).to_list()
    assert trainer.trained["retain"].to_list() == [row for i, row in enumerate(RETAIN) if i not in out]
    assert len(trainer.sets["retain"]) == 32  # all are evaluated
    assert trainer.checks.sets["retain"].to_list() == trainer.trained["retain"].to_list()  # what is not trained on sinks, and is no miss
    trainer.train()
    found = divergences(trainer)
    assert trainer.budget.mean == pytest.approx(found.mean(), rel=1e-3)
    assert trainer.budget.spent == pytest.approx(upper(found), rel=1e-3)
    assert trainer.safety.facts(8)["retain_kl_max"]["step"] == 8


STOPPING = {"stop_at": "never_seen", "never_seen_model": never_seen(), "holdout_dataset": HOLDOUT}


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("npo", {}),
        ("ngdiff", {}),
        pytest.param("mollm", {}, marks=pytest.mark.long),
        ("mollm", STOPPING),
        ("mean_teacher", {}),
        ("task_arithmetic", {}),
    ],
)
def test_a_run_that_ends_outside_gives_its_last_adapter_inside(method, changes, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(checks, "EVERY", 2)
    free = build(tmp_path, method, retain_kl_max=1e3, **QUICK, **changes)
    free.train()
    limit = max(free.budget.spent / 4, 1e-9)
    with caplog.at_level(logging.WARNING):
        held = build(tmp_path, method, retain_kl_max=limit, **QUICK, **changes)
        held.train()
    found = divergences(held)
    assert upper(found) <= limit * 1.001
    assert held.budget.kept == pytest.approx(found.mean(), rel=1e-3, abs=1e-9)
    facts = held.safety.facts(held.state.global_step)["retain_kl_max"]
    if facts["step"] < held.state.global_step:
        assert f"the adapter of step {facts['step']} is kept" in caplog.text


def test_what_ends_outside_goes_back_no_farther_than_it_must(tmp_path, monkeypatch):
    ends, end = [], Safety.end

    def seen(safety, *facts):
        ends.append((flat(safety.moving().student).clone(), safety.budget.spent))
        end(safety, *facts)

    monkeypatch.setattr(Safety, "end", seen)
    how = QUICK | {"max_steps": 3, "learning_rate": 3e-3}  # looked at after steps 1 and 3
    free = build(tmp_path, "npo", retain_kl_max=1e3, **how)
    free.train()
    trainer = build(tmp_path, "npo", retain_kl_max=free.budget.spent / 2, **how)
    trainer.train()
    (_, _), (last, _) = ends
    kept, way = flat(trainer.student).clone(), trainer.safety.way
    trainer.safety.damage.bring(trainer.safety.moving())
    inside = flat(trainer.student).clone()
    assert 0 < way < 1
    torch.testing.assert_close(kept, inside + way * (last - inside))

    def spent(share):
        torch.nn.utils.vector_to_parameters(inside + share * (last - inside), trainer.student)
        return upper(divergences(trainer))

    assert spent(way) <= trainer.budget.limit * 1.001
    assert spent(way + 1 / 32) > trainer.budget.limit * 0.999
    assert trainer.safety.facts(3)["retain_kl_max"]["way"] == way


def test_a_run_that_is_never_inside_its_budget_ends_with_what_it_began_with_or_is_next_to_it(tmp_path):
    trainer = build(tmp_path, "ngdiff", retain_kl_max=1e-9, **QUICK | {"max_steps": 9})
    trainer.train()
    facts = trainer.safety.facts(9)["retain_kl_max"]
    assert trainer.end.why == "retain_kl_max"
    assert upper(divergences(trainer)) <= 1.001e-9
    assert (facts["step"], facts["of"], facts["way"]) == (0, 9, 0)


def test_a_run_whose_targets_are_outside_its_budget_has_not_reached_them(bed, recipe, monkeypatch):
    import yaml

    monkeypatch.setattr(EarlyStop, "reached", property(lambda stop: stop.last is not None))  # from its first check on
    path = recipe(method="mollm", retain_kl_max=1e-9, max_steps=60, stop_at="never_seen", never_seen_model_name_or_path=str(bed / "other"))
    run = train(TrainRequest(yaml.safe_load(Path(path).read_text()))).report["run"]
    assert (run["ended"], run["reached"]) == ("retain_kl_max", False)
    assert run["steps"] < 60
    assert any(f"after {run['steps']} steps it was outside its budget for the retain set, and went back" in said for said in training(run))


def test_a_resumed_run_spends_what_an_uncut_one_spends(tmp_path):
    how = {"retain_kl_max": 0.05, "save_strategy": "steps", "save_steps": 5, **QUICK}
    whole = build(tmp_path / "whole", "npo", **how)
    whole.train()
    resumed = build(tmp_path / "resumed", "npo", **how)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert same(state(resumed), state(whole))
    assert torch.equal(resumed.budget.state_dict()["numbers"], whole.budget.state_dict()["numbers"])


def test_of_few_retain_rows_none_is_left_out_and_the_model_writes_some(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = build(tmp_path, "npo", retain_kl_max=0.1, retain_dataset=rows(6, 2), max_length=24)
    assert len(trainer.trained["retain"]) == 6
    assert len(trainer.budget.rows) >= 16
    assert "retain_kl_max: 6 retain rows are too few to leave some out, so it is measured on" in caplog.text


def test_report_and_card_say_what_was_allowed_and_what_was_spent(recipe):
    import yaml

    path = recipe(method="graddiff", retain_kl_max=0.5, max_steps=2)
    found = train(TrainRequest(yaml.safe_load(Path(path).read_text()))).report["run"]
    budgeted = found["retain_kl_max"]
    assert budgeted["limit"] == 0.5
    assert 0 <= budgeted["spent"] <= 0.5
    assert found["returned"] == []
    sentence = next(line for line in training(found) if "nats a token" in line)
    card = Path("out/README.md").read_text()
    assert "of 0.5 allowed." in sentence
    assert sentence in card
    assert "| `retain_kl_max` | 0.5 |" in card
