"""Why a run ends, at which pace it goes there, and what its report says of both."""

import itertools
import json
import logging
import math
from pathlib import Path

import pytest
import torch
import yaml
from cli_bed import COLOURS, NUMBERS
from datasets import Dataset
from test_early_stop_runs import run
from test_targets import twins
from test_trainer import Watch, build
from test_trainer_equivalence import HOLDOUT, never_seen, tokenizer
from transformers import TrainerCallback

from peft_unlearn.cli import main
from peft_unlearn.model.generation import generate
from peft_unlearn.report.advice import training
from peft_unlearn.training import callbacks, checks, early_stop, pace
from peft_unlearn.workflows import TrainRequest, train
from peft_unlearn.workflows.progress import Bar


@pytest.mark.parametrize(("minutes", "steps"), [(0.5, 1), (2.0, 4), (2.1, 5), (None, 6)])
def test_a_run_ends_after_the_step_in_which_its_minutes_are_over(minutes, steps, tmp_path, monkeypatch):
    clock = itertools.count(0, 30)  # a step takes half a minute
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: float(next(clock)))
    trainer = build(tmp_path, max_steps=6, max_minutes=minutes)
    trainer.train()
    assert trainer.state.global_step == steps
    assert trainer.end.why == ("max_minutes" if minutes else "max_steps")


def test_a_trainer_that_trains_again_has_all_its_minutes_again(tmp_path, monkeypatch):
    clock = itertools.count(0, 30)
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: float(next(clock)))
    trainer = build(tmp_path, max_steps=6, max_minutes=1.5)
    for _ in range(2):
        trainer.train()
        assert (trainer.state.global_step, trainer.end.why) == (3, "max_minutes")


def test_a_run_that_comes_no_nearer_ends_before_its_last_step(tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "PATIENCE", 3)
    monkeypatch.setattr(pace, "PASSES", 0)
    monkeypatch.setattr(checks, "EVERY", 2)
    monkeypatch.setattr(checks, "SHARE", math.inf)
    trainer = run(tmp_path, twins()[0], method="graddiff", stop_at="never_seen", learning_rate=1e-9)
    assert trainer.end.why == "no_nearer"
    assert trainer.state.global_step == 1 + 2 * 3  # one check that is nearer than none before it, and three that are no nearer
    assert not trainer.early_stop.reached
    assert max(map(abs, trainer.early_stop.last.missed().values())) > 1


class At(TrainerCallback):
    """Does something before a step."""

    def __init__(self, step, does):
        self.step, self.does = step, does

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.does()


def test_a_step_is_as_long_as_the_pace_says(tmp_path, monkeypatch):
    """Of plain gradient descent, whose steps are the gradient times the rate."""
    monkeypatch.setattr(checks, "EVERY", 1000)
    how = {"optim": "sgd", "learning_rate": 1e-4, "max_steps": 6, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    trainer = build(tmp_path, stop_at="never_seen", never_seen_model=never_seen(), holdout_dataset=HOLDOUT, **how)
    watch = Watch(trainer)
    trainer.add_callback(At(2, lambda: setattr(trainer.early_stop.pace, "rate", 0.1)))
    trainer.train()
    rates = [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]
    assert rates == pytest.approx([1e-4] * 3 + [1e-5] * 3)
    moved = [(b - a).norm() for a, b in itertools.pairwise(watch.students)]
    assert [torch.stack(moved[:2]).mean() / torch.stack(moved[2:]).mean()] == pytest.approx([10], rel=0.2)


def test_another_schedule_is_the_users(tmp_path):
    how = {"stop_at": "never_seen", "never_seen_model": never_seen(), "lr_scheduler_type": "linear", "learning_rate": 1e-4}
    trainer = build(tmp_path, **how)
    trainer.add_callback(At(1, lambda: setattr(trainer.early_stop.pace, "rate", 0.1)))
    trainer.train()
    rates = [line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line]
    assert rates == pytest.approx([1e-4, 7.5e-5, 5e-5, 2.5e-5])


def test_a_retain_set_that_is_lost_weighs_as_many_times_more_in_every_objective_on_it(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "EVERY", 1000)
    how = {"stop_at": "never_seen", "never_seen_model": never_seen(), "retain_kl": "reference", "retain_coef": 0.7, "kl_coef": 0.2}
    trainer = build(tmp_path, holdout_dataset=HOLDOUT, holdout_kl="reference", **how)
    trainer.add_callback(At(2, lambda: setattr(trainer.early_stop.pace, "keep", 3.0)))
    trainer.train()
    for name, before, after in (("forget", 1.0, 1.0), ("retain", 0.7, 2.1), ("kl", 0.2, 0.6), ("holdout", 0.2, 0.2)):
        found = [line[f"weight/{name}"] for line in trainer.state.log_history if f"weight/{name}" in line]
        assert found == pytest.approx([before] * 2 + [after] * 2), name


# -------------------------------------------------------------------------------------------------------------------------- on its way


class Terminal:
    """What a bar of tqdm is told."""

    def __init__(self, disable=False):
        self.total, self.description, self.written, self.beside, self.disable = None, None, [], {}, disable

    def set_description(self, text, **how):
        self.description = text

    def set_postfix(self, shown, **how):
        self.beside = shown

    def write(self, text):
        self.written.append(text)


def test_the_bar_says_how_far_a_run_is_and_every_fifth_check_what_it_answers(tmp_path):
    words = Dataset.from_list([{"question": f"w{n} w{n + 1}", "answer": f"w{n + 2}"} for n in range(30, 40)])
    how = {"stop_at": "never_seen", "never_seen_model": never_seen(), "answers": "none", "max_steps": 400}
    trainer = build(tmp_path, forget_dataset=words, **how)
    bar, trainer.state.global_step, trainer.state.max_steps = Bar(trainer), 100, 400
    bar.training_bar = terminal = Terminal()
    trainer.state.is_world_process_zero = True

    def check(share, worst):
        trainer.early_stop.last = early_stop.Found(share, worst, -0.5, 0.1)
        bar.on_log(trainer.args, trainer.state, trainer.control, logs={"check/share": share})

    check(0.5, 4.0)  # as many steps again as there were, and 2 + 2 log2 4 checks
    left = 100 + trainer.check_every * 6
    assert terminal.description == f"training: 50% of the way, about {left} steps left"
    assert terminal.total == 100 + left
    asked = [trainer.sets["forget"][n] for n in (0, 5)]
    lines = terminal.written[0].splitlines()
    assert lines[0] == "step 100"
    assert [[word for word in line.split() if word != "w3"] for line in lines[1::2]] == [
        ["w30", "w31"],
        ["w35", "w36"],
    ]  # w3 is what it has no word for
    said = [" ".join(answer.split()) for answer in generate(trainer.model, tokenizer(), asked)]
    assert [line.strip() for line in lines[2::2]] == said
    for _ in range(4):
        check(0.1, 20.0)
    assert terminal.total == 400  # no more than its bound
    assert len(terminal.written) == 1
    check(1.2, 0.5)
    assert len(terminal.written) == 2
    assert terminal.description == f"training: 100% of the way, about {2 * trainer.check_every} steps left"
    bar.on_log(trainer.args, trainer.state, trainer.control, logs={"loss/forget": 1.0, "p/forget": 0.12345, "learning_rate": 1e-3})
    assert terminal.beside == {"p/forget": "0.123", "learning_rate": "0.001"}


def test_without_a_bar_a_log_has_a_line_a_tenth_and_no_answer(tmp_path, caplog):
    """tqdm is off where the errors go into a file: the texts to be forgotten are not for that."""
    trainer = build(tmp_path, stop_at="never_seen", never_seen_model=never_seen(), max_steps=400)
    bar, trainer.state.max_steps, trainer.state.is_world_process_zero = Bar(trainer), 400, True
    bar.training_bar = terminal = Terminal(disable=True)
    with caplog.at_level(logging.INFO, logger="peft_unlearn"):
        for step in range(10, 401, 10):
            trainer.state.global_step = step
            bar.on_log(trainer.args, trainer.state, trainer.control, logs={"p/forget": 0.5, "learning_rate": 1e-3})
        trainer.early_stop.last = early_stop.Found(0.5, 4.0, -0.5, 0.1)
        bar.on_log(trainer.args, trainer.state, trainer.control, logs={"check/share": 0.5})
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        *(f"Step {step} of at most 400: p/forget 0.5." for step in range(40, 401, 40)),
        "Step 400 of at most 400: 50% of the way.",
    ]
    assert (terminal.written, terminal.description) == ([], None)


# ----------------------------------------------------------------------------------------------------------------------- in the report


def holdout(rows: int) -> str:
    """A file of so many rows, each of its own words."""
    words = [*COLOURS, *NUMBERS]
    pairs = [{"question": f"who is the {a} of {b} ?", "answer": f"{b} {a} {a}"} for a, b in itertools.product(words, words)]
    Path("more.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs[:rows]))
    return "more.jsonl"


def report(recipe, **changes) -> dict:
    return train(TrainRequest(yaml.safe_load(Path(recipe(**changes)).read_text()))).report


def test_a_report_says_why_its_run_ended_and_what_that_missed(recipe, bed):
    other = {"stop_at": "never_seen", "never_seen_model_name_or_path": str(bed / "other")}
    found = report(recipe, method="graddiff", **other)["run"]
    assert (found["ended"], found["reached"], found["steps"]) == ("max_steps", False, 2)
    assert set(found["missed"]) == {"mean", "membership", "retain", "extraction", "answers", "inner", "recited"}
    found = report(recipe, output_dir="short", max_steps=50, max_minutes=1e-9, method="graddiff", **other)["run"]
    assert (found["ended"], found["steps"]) == ("max_minutes", 1)
    plain = report(recipe, output_dir="plain", method="graddiff")["run"]
    assert (plain["ended"], plain["reached"], plain["missed"]) == ("max_steps", None, None)


@pytest.mark.parametrize(("held", "rows"), [("reference", 20), ("none", 30)])
def test_a_run_is_judged_on_the_holdout_rows_that_it_left_alone(held, rows, recipe):
    given = str(Path(holdout(30)).resolve())
    found = report(recipe, method="graddiff", holdout_dataset=given, holdout_kl=held, per_device_eval_batch_size=64)
    for view in ("before", "after"):
        assert found["results"]["holdout"][view]["probability"]["n"] == rows
    for named, expected in (([], rows), (["--holdout", given], 30)):  # and so it is afterwards, unless a holdout is named
        assert main(["evaluate", "out", "--output", "again.json", *named]) == 0
        assert json.loads(Path("again.json").read_text())["results"]["holdout"]["after"]["probability"]["n"] == expected


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (
            {"ended": "no_nearer", "missed": {"mean": 0.5, "membership": -2.4, "retain": 1.1}},
            "after 70 steps it came no nearer; the forget rows can",
        ),
        (
            {"ended": "no_nearer", "missed": {"mean": 1.5, "membership": -1.1, "retain": -2.0, "extraction": 1.6}},
            "forget rows go on by themselves for longer than holdout rows by 1.6 times",
        ),
        (
            {"ended": "no_nearer", "missed": {"mean": 1.5, "membership": 0.1, "retain": 0.0, "extraction": -4.0}},
            "mean log-probability misses its target by 1.5 times",
        ),
        (
            {"ended": "no_nearer", "missed": {"mean": 3.2, "membership": 1, "retain": -9.0}},
            "mean log-probability misses its target by 3.2 times",
        ),
        (
            {"ended": "no_nearer", "missed": {"mean": 0.1, "membership": 0.2, "retain": 4.0}},
            "the retain set has lost probability by 4.0 times",
        ),
        ({"ended": "max_minutes", "missed": {"mean": 0.1, "membership": 0.2, "retain": 0.3}}, "its 15 minutes were over after 70 steps."),
        (
            {"ended": "max_steps", "missed": {"mean": 2.0, "membership": 0.2, "retain": 0.3}},
            "it ended after 70 steps, its last one; the forget",
        ),
        ({"ended": "max_steps", "missed": None}, "it ended after 70 steps, its last one."),
    ],
)
def test_what_a_run_missed_is_a_sentence(run, says):
    (sentence,) = training({"reached": False, "steps": 70, "settings": {"max_steps": 70, "max_minutes": 15.0}, **run})
    assert sentence.startswith("The run did not reach its target: ")
    assert says in sentence
    assert sentence.count("times") == ("times" in says or "no nearer; the forget" in says or "last one; the forget" in says)


def test_a_run_that_reached_its_target_has_nothing_to_say():
    assert training({"reached": True, "ended": "reached", "steps": 70, "missed": {"mean": 0.1, "membership": 0.2, "retain": 0.3}}) == []
    assert training({"reached": None, "ended": "max_steps", "steps": 70, "missed": None}) == []
