"""Checks on models, and whole runs that stop early: they end where a twin is that never saw the forget set."""

import copy

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from test_early_stop import HELD, RETAINED, ROWS
from test_targets import FORGET, HOLDOUT, RETAIN, logps, twins
from test_trainer_equivalence import LORA, tokenizer

from peft_unlearn import UnlearnConfig, UnlearnTrainer, metrics
from peft_unlearn.data.rows import answer_texts
from peft_unlearn.model.generation import generate
from peft_unlearn.model.scoring import RowScore, score
from peft_unlearn.training import setup
from peft_unlearn.training.callbacks import REACHED, STEPS
from peft_unlearn.training.checks import EVERY, Checks, recited, sample
from peft_unlearn.training.early_stop import IN_A_ROW, TOLERANCE_EXTRACTION, EarlyStop
from peft_unlearn.training.parting import Parting


def run(folder, model, forget=None, **changes) -> UnlearnTrainer:
    defaults = {"learning_rate": 3e-3, "per_device_train_batch_size": len(FORGET), "max_steps": 300, "use_cpu": True, "disable_tqdm": True}
    stops_at_twin = changes.get("stop_at") == "never_seen"
    trainer = UnlearnTrainer(
        copy.deepcopy(model),
        UnlearnConfig(str(folder), **defaults | changes),
        forget_dataset=Dataset.from_list(forget or FORGET),
        retain_dataset=Dataset.from_list(RETAIN),
        holdout_dataset=Dataset.from_list(HOLDOUT),
        never_seen_model=twins()[1] if stops_at_twin else None,
        processing_class=tokenizer(),
        peft_config=LORA,
    )
    trainer.train()
    trainer.model.eval()
    return trainer


def mean(model, rows) -> float:
    return np.concatenate(logps(model, rows)).mean()


def beside_the_holdout(model) -> float:
    """How much less likely the forget rows are than rows that no model ever saw."""
    return mean(model, FORGET) / mean(model, HOLDOUT)


@pytest.mark.parametrize(("method", "stop_at"), [pytest.param("ngdiff", "auto", marks=pytest.mark.long), ("graddiff", "never_seen")])
def test_a_run_ends_where_a_twin_is_that_never_saw_the_forget_rows(method, stop_at, tmp_path):
    learnt, twin = twins()
    assert mean(learnt, FORGET) > -0.1  # by heart
    trainer = run(tmp_path, learnt, method=method, stop_at=stop_at)
    if stop_at == "never_seen":
        assert trainer.early_stop.reached
        assert trainer.end.why == REACHED
        assert (IN_A_ROW - 1) * EVERY < trainer.state.global_step < 300  # before max_steps
    else:
        assert trainer.early_stop.last.miss < 2  # not within one in every second run, as the last digits have it (docs/log.md)
    # An estimate itself is up to 13 % off (docs/concepts/target-estimate.md), and a run may end 10 % beside it.
    off = 0.23 if stop_at == "auto" else 0.1
    assert beside_the_holdout(trainer.model) == pytest.approx(beside_the_holdout(twin), rel=off)
    assert mean(trainer.model, FORGET) == pytest.approx(mean(twin, FORGET), rel=max(0.2, off))
    assert mean(trainer.model, RETAIN) > mean(learnt, RETAIN) - 0.1
    assert ("answers" in trainer.trained) == (method != "graddiff")
    if "answers" in trainer.trained:  # what it was taught to say, it says; a run waits for 90 % to where they part from the row's own
        taught = list(trainer.trained["answers"])
        told = answer_texts(tokenizer(), taught)
        said, before = (generate(model, tokenizer(), taught) for model in (trainer.model, learnt))
        already = [(was, right) for was, other, right in zip(before, told, answer_texts(tokenizer(), FORGET), strict=True) if was == other]
        assert len(already) < 0.2 * len(told)
        assert all(was != right for was, right in already)  # rows that it did not know
        assert sum(map(str.__eq__, said, told)) > 0.8 * len(told)


def test_a_model_that_does_not_know_the_rows_has_nothing_to_forget(tmp_path, caplog):
    said = "forget_dataset: there is nothing to forget, the model does not know these rows: "
    for model, told in ((twins()[0], False), (twins()[1], True)):
        caplog.clear()
        run(tmp_path / str(told), model, method="graddiff", stop_at="never_seen", max_steps=1)
        assert any(record.getMessage().startswith(said) for record in caplog.records) is told


@pytest.mark.long
def test_a_run_that_refuses_ends_when_it_does_and_says_other_things_of_others(tmp_path):
    """A refusal is the same for all rows, and begins where each answer would."""
    refusal, model = [61, 60, 59], copy.deepcopy(twins()[0])
    asked = [row["labels"].count(-100) for row in FORGET]
    refused = [{"input_ids": row["input_ids"][:n] + refusal, "labels": [-100] * n + refusal} for row, n in zip(FORGET, asked, strict=True)]
    trainer = run(
        tmp_path,
        model,
        forget=[{**row, "alternate": other} for row, other in zip(FORGET, refused, strict=True)],
        method="mollm",
        stop_at="never_seen",
        answers="refuse",
    )
    assert trainer.early_stop.reached
    said, of_others = (generate(trainer.model, tokenizer(), Dataset.from_list(rows)) for rows in (FORGET, RETAIN))
    word = tokenizer().decode(refusal).split()[0]
    assert sum(answer.split()[:1] == [word] for answer in said) >= 0.95 * len(said)
    assert sum(answer.split()[:1] == [word] for answer in of_others) <= 0.01 * len(of_others)


def test_a_holdout_of_another_kind_is_told(caplog):
    model = setup.adapt(copy.deepcopy(twins()[0]), UnlearnConfig("x", use_cpu=True), LORA)
    targets = [np.full(len(row["input_ids"]) - 1, -1.0).tolist() for row in FORGET]
    forget = Dataset.from_list([{**row, "target_logps": target} for row, target in zip(FORGET, targets, strict=True)])
    one_word = [dict.fromkeys(("input_ids", "labels"), [60] * 9)] * 40
    for rows, told in ((HOLDOUT, False), (one_word, True)):
        caplog.clear()
        sets = {"forget": forget, "retain": Dataset.from_list(RETAIN), "holdout": Dataset.from_list(rows)}
        Checks(model, tokenizer(), sets, 4)._warn_of_unlike_rows()
        assert any(record.getMessage().startswith("holdout_dataset: these rows are unlike") for record in caplog.records) is told


@pytest.mark.long
def test_a_model_that_forgot_too_much_is_brought_back_up(tmp_path):
    burnt, twin = run(tmp_path / "burnt", twins()[0], method="graddiff", max_steps=50).model.merge_and_unload(), twins()[1]
    assert beside_the_holdout(burnt) > 1.5
    trainer = run(tmp_path / "back", burnt, method="graddiff", stop_at="never_seen")
    assert trainer.early_stop.reached
    assert trainer.state.global_step < 300
    own, beside = mean(trainer.model, FORGET) / mean(twin, FORGET), beside_the_holdout(trainer.model) / beside_the_holdout(twin)
    assert own <= 1 <= beside  # its unseen text is likelier than the twin's: half-way between the twin's own level and that
    assert own * beside == pytest.approx(1, rel=0.12)  # each within 5 % in the sample that checks see


def test_a_run_that_does_not_get_there_ends_at_its_last_step(tmp_path):
    trainer = run(tmp_path, twins()[0], method="graddiff", stop_at="never_seen", learning_rate=1e-6, max_steps=12)
    assert trainer.state.global_step == 12
    assert trainer.end.why == STEPS
    assert not trainer.early_stop.reached


def test_a_check_compares_extraction_strengths_as_the_report_has_them():
    model = setup.adapt(copy.deepcopy(twins()[0]), UnlearnConfig("x", use_cpu=True), LORA)
    sets = {name: sample(Dataset.from_list(rows)) for name, rows in (("forget", FORGET), ("retain", RETAIN), ("holdout", HOLDOUT))}
    found = {name: metrics.evaluate(model, tokenizer(), rows, generate=False)["extraction_strength"]["mean"] for name, rows in sets.items()}
    excess = found["forget"] - found["holdout"]
    assert excess > 0.5
    for estimated, expected in ((True, excess), (False, 0.0)):
        early_stop = EarlyStop(ROWS[:1] * len(sets["forget"]), [0] * len(sets["forget"]), RETAINED, HELD, estimated=estimated)
        Checks(model, tokenizer(), sets, 4).check(early_stop)
        assert early_stop.last.extraction * TOLERANCE_EXTRACTION == pytest.approx(expected)


def test_a_row_is_recited_where_it_is_what_the_model_answers():
    before, twin = twins()
    said = {}
    for name, model in (("before", before), ("twin", twin)):
        rows = Dataset.from_list(FORGET)
        own, given = answer_texts(tokenizer(), rows), generate(model, tokenizer(), rows)
        said[name] = float(np.mean([one == other for one, other in zip(own, given, strict=True)]))
        assert recited(score(model, rows, tokenizer())) == pytest.approx(said[name])
    assert said["before"] > 0.8 > 0.1 > said["twin"]


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=24), min_size=1, max_size=4), st.integers(0, 1))
def test_a_row_is_recited_where_nine_tenths_of_it_are_right_from_its_start(flags, end):
    rows = [RowScore(np.zeros(len(row) + end), np.array([*row, *[False] * end]), end, np.zeros(0), np.zeros(0)) for row in flags]
    begun = [next((n for n, right in enumerate(row) if not right), len(row)) for row in flags]
    assert recited(rows) == pytest.approx(np.mean([10 * right >= 9 * len(row) for right, row in zip(begun, flags, strict=True)]))


def test_one_recited_row_of_a_sample_is_waited_for_unless_it_may_be_guessed_or_nothing_is_taught_in_its_place():
    model = setup.adapt(copy.deepcopy(twins()[0]), UnlearnConfig("x", use_cpu=True), LORA)
    (known, *_) = (row for row in FORGET if recited(score(model, [row], tokenizer())))
    rows = {"forget": [*HOLDOUT[:31], known], "retain": RETAIN}
    few = [*RETAIN[:1], *HOLDOUT[:31]]  # the model says all of the retain set
    for holdout, part, waits in ((HOLDOUT[:32], 0, True), (few, 0, False), (HOLDOUT[:32], 99, False)):
        sets = {name: Dataset.from_list(found) for name, found in (rows | {"holdout": holdout, "answers": HOLDOUT[:32]}).items()}
        early_stop = EarlyStop(ROWS[:1] * 32, [0] * 32, RETAINED, HELD, estimated=True)
        Checks(model, tokenizer(), sets, 4, Parting([0] * 31 + [part], [0] * 32, [0] * 32)).check(early_stop)
        assert (early_stop.last.recited > 1) is waits
        assert early_stop.last.answers > 1
        sets.pop("answers")  # a never-seen model's targets ask for them: nothing else waits
        Checks(model, tokenizer(), sets, 4, Parting([0] * 31 + [part], [0] * 32, [0] * 32)).check(early_stop)
        assert (early_stop.last.recited > 1) is waits
        assert early_stop.last.answers == 0
