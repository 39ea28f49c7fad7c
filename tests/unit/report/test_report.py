"""The report: valid JSON, no text, written whole or not at all."""

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import bootstrap

from peft_unlearn import report
from peft_unlearn.metrics.results import Evaluation
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.numbers import show

SECRET = "Ada lives in Heron Bay"


def evaluation(*values: float | None, rouge: bool = True) -> Evaluation:
    names = ["loss", "rouge_l"] if rouge else ["loss"]
    return Evaluation({name: list(values) for name in names}, [SECRET] * len(values))


def results() -> dict[str, dict[str, Evaluation]]:
    return {
        "forget": {"before": evaluation(1.0, 0.5), "after": evaluation(0.25, None), "never_seen": evaluation(0.0, 0.125, rouge=False)},
        "retain": {"before": evaluation(1.0), "after": evaluation(0.75)},
    }


def rendered(table) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_report_holds_every_number_and_no_text(tmp_path):
    built = report.build(results(), {"method": "ngdiff", "lr": 1e-3, "path": Path("data.jsonl"), "floor": math.inf})
    report.write(built, tmp_path / "report.json")
    text = (tmp_path / "report.json").read_text()
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read == built
    assert SECRET not in text
    assert read["schema"] == 4
    assert read["run"] == {"method": "ngdiff", "lr": 1e-3, "path": "data.jsonl", "floor": "Infinity"}
    assert read["results"]["forget"]["after"]["loss"] == {"mean": 0.25, "n": 1, "interval": None, "rows": [0.25, None]}
    rouge = read["results"]["forget"]["before"]["rouge_l"]
    assert {key: rouge[key] for key in ("mean", "n", "rows")} == {"mean": 0.75, "n": 2, "rows": [1.0, 0.5]}
    assert list(read["results"]["forget"]) == ["before", "after", "never_seen"]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_non_finite_numbers_become_null_with_a_reason(tmp_path, broken):
    built = report.build({"forget": {"after": evaluation(1.0, broken, None)}}, {})
    report.write(built, tmp_path / "report.json")
    entry = json.loads((tmp_path / "report.json").read_text())["results"]["forget"]["after"]["loss"]
    reason = "the model's numbers are not finite in 1 of 2 rows"
    assert entry == {"mean": None, "n": 2, "interval": None, "rows": [1.0, None, None], "reason": reason}
    assert built["differences"] == {"forget": {}}
    assert "not finite in 1 of 2" in rendered(report.table(built))


def test_nothing_measured_is_said_so():
    entry = report.build({"forget": {"after": evaluation(None)}}, {})["results"]["forget"]["after"]["loss"]
    assert entry == {"mean": None, "n": 0, "interval": None, "rows": [None], "reason": "no row has anything to measure"}


def test_a_failed_write_leaves_the_old_report(tmp_path):
    path = tmp_path / "report.json"
    report.write(report.build(results(), {}), path)
    old = path.read_text()
    with pytest.raises(ValueError, match="JSON compliant"):
        report.write({"mean": math.nan}, path)
    assert path.read_text() == old
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_intervals_and_differences_are_near_scipys_bca_bootstrap():
    rng = np.random.default_rng(1)
    before, after = rng.random(60), rng.random(60) ** 2
    before[3] = np.nan  # nothing to measure there: the pair drops out
    built = report.build({"forget": {name: {"p": measured(rows)} for name, rows in (("before", before), ("after", after))}}, {})
    changes = np.delete(after - before, 3)
    for found, sample in (
        (built["results"]["forget"]["after"]["p"], after),
        (built["differences"]["forget"]["p"]["after - before"], changes),
    ):
        expected = bootstrap((sample,), np.mean, method="BCa", n_resamples=9999, random_state=2).confidence_interval
        assert found["mean"] == pytest.approx(sample.mean())
        assert found["n"] == len(sample)
        assert found["interval"] == pytest.approx(expected, abs=0.1 * (expected.high - expected.low))
    assert "after - never_seen" not in built["differences"]["forget"]["p"]


def measured(rows) -> dict:
    values = [None if np.isnan(value) else float(value) for value in rows]
    return {"mean": float(np.nanmean(rows)), "n": sum(value is not None for value in values), "rows": values}


def test_results_of_a_set_as_a_whole_keep_their_own_interval_and_what_else_they_bring():
    auc = {"mean": 0.5, "n": 9, "rows": [], "interval": [0.4, 0.6]}
    odd = {"mean": 0.5, "n": 9, "rows": [], "interval": [0.4, math.nan]}
    lens = {"mean": 0.5, "n": 1, "rows": [0.5], "layers": [0.25, 0.5]}
    few = {"mean": math.nan, "n": 0, "rows": [], "reason": "too few rows"}
    after = report.build({"forget": {"after": {"min_k_auc": auc, "logit_lens": lens, "forget_quality": few, "odd": odd}}}, {})["results"][
        "forget"
    ]["after"]
    assert after["min_k_auc"] == {"mean": 0.5, "n": 9, "rows": [], "interval": [0.4, 0.6]}
    assert after["odd"]["interval"] is None
    assert after["logit_lens"]["layers"] == [0.25, 0.5]
    assert after["forget_quality"] == {"mean": None, "n": 0, "interval": None, "rows": [], "reason": "too few rows"}


def test_views_of_different_rows_are_refused():
    with pytest.raises(UserError, match=r"never_seen: loss of the forget set has 1 rows there and 2 after"):
        report.build({"forget": {"after": evaluation(1.0, 2.0), "never_seen": evaluation(1.0)}}, {})


def test_what_never_seen_is_stands_in_the_report():
    assert report.build(results(), {})["never_seen"] == {"kind": None, "name": None}
    told = {"kind": "retrained", "name": "twin"}
    assert report.build(results(), {}, never_seen=told)["never_seen"] == told
    alone = {"forget": {"after": evaluation(1.0)}, "holdout": {"before": evaluation(1.0)}}
    assert report.build(alone, {})["never_seen"] == {"kind": "holdout", "name": None}


def test_curve_and_definitions_are_kept():
    built = report.build(results(), {}, definitions="openunlearning", curve=[{"step": 1, "p_forget": math.nan, "p_retain": 0.5}])
    assert built["curve"] == [{"step": 1, "p_forget": None, "p_retain": 0.5}]
    assert built["definitions"] == "openunlearning"


def test_a_large_report_is_built_at_once():
    rows = list(np.random.default_rng(0).random(400))
    views = {view: Evaluation({f"metric_{i}": rows for i in range(15)}, []) for view in ("before", "after", "never_seen")}
    start = time.process_time()
    report.build({"forget": views}, {})
    assert time.process_time() - start < 2


def test_table_shows_before_after_and_never_seen_of_each_set():
    lines = [" ".join(line.split()) for line in rendered(report.table(report.build(results(), {}))).splitlines()]
    assert "forget" in lines
    assert "retain" in lines
    # Student's t with one degree of freedom is 12.706 at .975; one row has no interval
    assert "loss 0.750 [-2.43, 3.93] 0.250 0.062 [-0.732, 0.857] 1/2" in lines
    assert "rouge l 0.750 [-2.43, 3.93] 0.250 - 1/2" in lines
    assert "loss 1.00 0.750 - 1" in lines


def test_table_fits_in_100_columns_and_leaves_the_verdict_to_the_last_lines():
    wide = {name: measured(-np.random.default_rng(0).random(9) * 120) for name in ("extraction_strength", "exact_memorization")}
    views = dict.fromkeys(("before", "after", "never_seen"), wide)
    text = rendered(report.table(report.build({"forget": views, "retain": views}, {})))
    assert "extraction strength" in text
    assert "…" not in text
    assert "VERDICT" not in text
    many = {f"method {i}": {"loss": measured(np.ones(9))} for i in range(5)}
    assert "[" not in rendered(report.table(report.build({"forget": many}, {})))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.95, "0.950"), (0.004, "0.0040"), (-0.0004, "0.000"), (2.345, "2.35"), (-99.8, "-99.8"), (5215.4, "5215"), (0, "0.000")],
)
def test_numbers_are_shown_short(value, text):
    assert show(value) == text


def test_side_by_side_shows_answers_as_they_are():
    said = ["Ada [/b] [red]\n\x1b[2J"]
    text = rendered(report.side_by_side(["Who?"], {"before": said, "after": [""], "never_seen": ["Bo"]}))
    assert "Ada [/b] [red]" in text
    assert "\x1b" not in text  # which would clear a terminal
    assert "never-seen" in text
    with pytest.raises(ValueError, match="shorter"):
        report.side_by_side(["Who?", "Where?"], {"before": ["Ada"]})


def test_every_number_can_be_had_again_as_the_howto_says(tmp_path, monkeypatch):
    views = {view: {"extraction_strength": measured(np.random.default_rng(i).random(9))} for i, view in enumerate(("before", "after"))}
    monkeypatch.chdir(tmp_path)
    for groups in (None, {"forget": {"by": "column author", "ids": [i // 3 for i in range(9)]}}):
        report.write(report.build({"forget": views}, {}, groups=groups), "report.json")
        text = (Path(__file__).parents[3] / "docs/howto/read-the-report.md").read_text(encoding="utf-8")
        exec(text.split("```python")[1].split("```")[0], {})
