"""What a verdict compares with: a never-seen model, moved by what the holdout shows, or the holdout itself."""

import pytest
from made_reports import BEFORE, NEVER, built, rows, share

from peft_unlearn import report


def test_a_holdout_set_stands_for_the_never_seen_model():
    """Other rows of the kind, under the model itself; what it does to them is judged as well."""
    results = built({}, without=("never_seen",))["results"]
    holdout = {name: rows(value) for name, value in NEVER.items()}
    results["holdout"] = {"before": holdout, "after": holdout}
    forgotten = report.build(results, {})
    assert forgotten["never_seen"]["kind"] == "holdout"
    assert forgotten["verdict"]["word"] == "FORGOTTEN AS TESTED", forgotten["verdict"]["reasons"]
    assert any("compared with holdout rows" in reason for reason in forgotten["verdict"]["reasons"])
    results["forget"]["after"]["loss"] = rows(3.0)
    assert report.build(results, {})["verdict"]["word"] == "OVER-FORGOTTEN"
    results["holdout"]["after"] = {**holdout, "loss": rows(3.0)}
    found = report.build(results, {})["verdict"]
    assert found["word"] == "OVER-FORGOTTEN"
    assert "loss of the holdout set" in found["reasons"][0]


def test_a_holdout_that_was_taught_is_no_reference():
    results = built({}, without=("never_seen",))["results"]
    taught = {name: rows(value) for name, value in BEFORE.items()}
    results["holdout"] = {"before": taught, "after": taught}
    found = report.build(results, {})["verdict"]
    assert found["word"] == "NOT SHOWN"
    assert any("seems to stand in the training set" in reason for reason in found["reasons"])


def moved(never_kind: str, after_loss: float, degenerate: float = 0.0) -> dict:
    """A base below the user's adapter as the never-seen model: the fine-tune took unseen text from 2.61 nats to 3.80."""
    results = built({"loss": after_loss})["results"]
    results["forget"]["after"]["degenerate"] = share(degenerate)
    loss = {"before": 0.005, "after": after_loss, "never_seen": 2.67}
    for view, value in loss.items():
        results["forget"][view]["loss"] = rows(value)
    results["holdout"] = {
        view: {"loss": rows(value), "min_k": rows(-2 * value)} for view, value in (("before", 3.80), ("after", 3.87), ("never_seen", 2.61))
    }
    return report.build(results, {}, never_seen={"kind": never_kind, "name": "base"})["verdict"]


def test_the_reference_is_moved_as_the_targets_of_the_run_are():
    """The run that landed at 4.20 nats where the bare base stands at 2.67 (a real chat model) is no over-forgetting."""
    found = moved("base", 4.20)
    assert found["word"] == "FORGOTTEN AS TESTED", found["reasons"]
    assert any("times 1.48" in reason for reason in found["reasons"])
    assert moved("base", 6.5)["word"] == "OVER-FORGOTTEN"
    assert (
        moved("base", 2.67)["word"] == "NOT FORGOTTEN"
    )  # as unlikely as for a model that never had the fine-tune: likelier than unseen text


def test_a_run_that_landed_and_broke_its_answers_is_told_by_its_answers():
    """The same run as it was measured: 55 % of the answers to forgotten questions are "X X X", where the bare base has 2.5 %."""
    found = moved("base", 4.20, degenerate=0.55)
    assert found["word"] == "OVER-FORGOTTEN"
    assert "Empty or repetitive answers, forget set: 0.550 after" in found["reasons"][0]
    assert [criterion["name"] for criterion in found["criteria"] if criterion["state"] == "failed"] == ["degenerate"]


def asked_otherwise(after: float, holdout: tuple[float, float, float] | None) -> dict:
    """Recalled in other wordings: 33 % by a never-seen model, and 40 % as it is asked; `holdout`, of unseen rows before, after and by that one."""
    results = built({"reworded_memorization": after})["results"]
    for view, value in {"before": 0.75, "never_seen": 0.33}.items():
        results["forget"][view]["reworded_memorization"] = rows(value)
    results["forget"]["never_seen"]["exact_memorization"] = rows(0.40)
    if holdout is not None:
        views = zip(("before", "after", "never_seen"), holdout, strict=True)
        results["holdout"] = {view: {"reworded_memorization": rows(value)} for view, value in views}
    return report.build(results, {})["verdict"]


@pytest.mark.parametrize(
    ("after", "holdout", "reference"),
    [
        (0.45, None, 0.33),
        (0.45, (0.38, 0.43, 0.34), 0.38),  # unseen rows are recalled .05 more than before: so would these be
        (0.45, (0.34, 0.43, 0.38), 0.38),  # and .05 more than by the never-seen model
        (0.45, (0.38, 0.34, 0.34), 0.33),  # a model that was retrained in place of unlearned
        (0.55, (0.38, 0.80, 0.34), 0.40),  # never more than as it is asked: the holdout was learned
    ],
)
def test_other_wordings_are_judged_beside_what_unlearning_added_to_unseen_rows_there(after, holdout, reference):
    verdict = asked_otherwise(after, holdout)
    (found,) = (criterion for criterion in verdict["criteria"] if criterion["name"] == "reworded_memorization")
    left = (after - reference) / (0.75 - reference)
    assert found["value"] == pytest.approx(left, abs=0.01)
    assert found["state"] == ("passed" if left < 0.25 else "failed")
    assert any("in other wordings are moved" in reason for reason in verdict["reasons"]) == (reference != 0.33)


def test_a_holdout_that_was_burnt_moves_the_reference_no_further():
    results = built({})["results"]
    for view, value in {"before": 0.005, "after": 12.0, "never_seen": 2.67}.items():
        results["forget"][view]["loss"] = rows(value)
    views = (("before", 3.80), ("after", 11.0), ("never_seen", 2.61))
    results["holdout"] = {view: {"loss": rows(value), "min_k": rows(-2 * value)} for view, value in views}
    found = report.build(results, {}, never_seen={"kind": "base", "name": "base"})["verdict"]
    assert found["word"] == "OVER-FORGOTTEN"
    assert {criterion["name"] for criterion in found["criteria"] if criterion["state"] == "failed"} >= {"loss_beyond", "holdout_damage"}


def test_an_estimate_is_called_one():
    reasons = built({}, never_seen={"kind": "estimate", "name": None})["verdict"]["reasons"]
    assert any("for the never-seen estimate" in reason for reason in reasons)
