"""Two commands that would write the same report: the second one is refused, and the first one's results are there."""

import json
from pathlib import Path

import pytest
from cli_bed import refused

from peft_unlearn.cli import main
from peft_unlearn.util.folders import claimed
from peft_unlearn.workflows import views

SETS = ("forget", "retain")


def in_the_midst(monkeypatch, do):
    """Have `do` called once, when the command that is run next has a model in memory."""
    measure, calls = views.measure_view, []

    def measured(*args):
        if not calls:
            calls.append(1)
            do()
        return measure(*args)

    monkeypatch.setattr(views, "measure_view", measured)


@pytest.fixture
def sets(bed):
    return [word for name in SETS for word in (f"--{name}", str(bed / f"{name}.jsonl"))] + ["--rows", "2"]


def test_a_second_audit_beside_one_that_runs_is_refused_and_its_results_can_be_added_later(bed, sets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, second = (
        ["audit", str(bed / "base"), *sets, "--output", "here/report.json", "--attacks", name] for name in ("sanity", "prompts")
    )
    in_the_midst(monkeypatch, lambda: refused(capsys, second, "output: another run is writing into here, write another folder"))
    assert main(first) == 0
    assert made("here/report.json") == {"sanity"}
    assert main(second) == 0
    assert made("here/report.json") == {"sanity", "prompts"}
    assert sorted(path.name for path in Path("here").iterdir()) == ["audit.json", "report.html", "report.json"]


def made(report: str) -> set[str]:
    return {name for name, entry in json.loads(Path(report).read_text())["attacks"].items() if entry["reason"] != "it was not made"}


def test_two_evaluations_share_a_folder_and_not_a_file(bed, sets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", str(bed / "base"), *sets, "--output"]

    def others():
        refused(capsys, [*command, "here/report.json"], "output: another run is writing here/report.json, write another file")
        assert main([*command, "here/other.json"]) == 0

    in_the_midst(monkeypatch, others)
    assert main([*command, "here/report.json"]) == 0
    assert sorted(path.name for path in Path("here").iterdir()) == ["other.html", "other.json", "report.html", "report.json"]


def test_an_audit_does_not_begin_where_a_run_trains(recipe, bed, sets, tmp_path, capsys, no_model):
    with claimed(tmp_path / "out", key="output_dir"):
        refused(capsys, ["audit", str(bed / "base"), *sets, "--output", "out/report.json"], "output: another run is writing into out")
