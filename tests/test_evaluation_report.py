"""The report: valid JSON, no text, written whole or not at all."""

import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from peft_unlearn.evaluation import Evaluation, report

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
    console = Console(width=160)
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
    assert read["schema"] == 1
    assert read["run"] == {"method": "ngdiff", "lr": 1e-3, "path": "data.jsonl", "floor": "Infinity"}
    assert read["results"]["forget"]["after"]["loss"] == {"mean": 0.25, "n": 1, "rows": [0.25, None]}
    assert read["results"]["forget"]["before"]["rouge_l"] == {"mean": 0.75, "n": 2, "rows": [1.0, 0.5]}
    assert list(read["results"]["forget"]) == ["before", "after", "never_seen"]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_non_finite_numbers_become_null_with_a_reason(tmp_path, broken):
    built = report.build({"forget": {"after": evaluation(1.0, broken, None)}}, {})
    report.write(built, tmp_path / "report.json")
    entry = json.loads((tmp_path / "report.json").read_text())["results"]["forget"]["after"]["loss"]
    assert entry == {"mean": None, "n": 2, "rows": [1.0, None, None], "reason": "the model's numbers are not finite in 1 of 2 rows"}
    assert "not finite in 1 of 2" in rendered(report.table(built))


def test_nothing_measured_is_said_so():
    entry = report.build({"forget": {"after": evaluation(None)}}, {})["results"]["forget"]["after"]["loss"]
    assert entry == {"mean": None, "n": 0, "rows": [None], "reason": "no row has anything to measure"}


def test_a_failed_write_leaves_the_old_report(tmp_path):
    path = tmp_path / "report.json"
    report.write(report.build(results(), {}), path)
    old = path.read_text()
    with pytest.raises(ValueError, match="JSON compliant"):
        report.write({"mean": math.nan}, path)
    assert path.read_text() == old
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_table_shows_before_after_and_never_seen_of_each_set():
    lines = [line for line in rendered(report.table(report.build(results(), {}))).splitlines() if "│" in line]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    assert cells == [
        ["forget", "loss", "0.7500", "0.2500", "0.0625", "1/2"],
        ["forget", "rouge l", "0.7500", "0.2500", "-", "1/2"],
        ["retain", "loss", "1.0000", "0.7500", "-", "1"],
        ["retain", "rouge l", "1.0000", "0.7500", "-", "1"],
    ]


def test_side_by_side_shows_answers_as_they_are():
    text = rendered(report.side_by_side(["Who?"], {"before": ["Ada [/b] [red]"], "after": [""], "never_seen": ["Bo"]}))
    assert "Ada [/b] [red]" in text
    assert "never-seen" in text
    with pytest.raises(ValueError, match="shorter"):
        report.side_by_side(["Who?", "Where?"], {"before": ["Ada"]})
