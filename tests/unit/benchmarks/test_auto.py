"""The command that tries `method: auto` on test beds."""

import dataclasses
import itertools
import json

import auto
import public_rows
import pytest

from beds import kinds, measuring
from beds.models import recipe
from beds.source import ROWS, SETS


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Three settings on a folder of rows, two steps each, on models that learnt little."""
    folder = tmp_path_factory.mktemp("auto")
    rows = kinds.invented("authors").rows
    (folder / "people").mkdir()
    for part, count in zip(SETS, (8, 16, 16), strict=True):
        (folder / "people" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[part][:count]))
    command = ["run", "--kinds", "--rows-from", str(folder / "people"), "--settings", *auto.SETTINGS, "--cache", str(folder / "cache")]
    command += ["--runs", str(folder / "runs.jsonl"), "--output", str(folder / "runs"), "--max_steps", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto, "recipe", lambda **told: dataclasses.replace(recipe(**told), hidden_size=64, num_hidden_layers=1, max_epochs=2))
        patch.setattr(measuring, "DRAWS", 50)
        auto.main(command)
        once = (folder / "runs.jsonl").read_text()
        auto.main(command)
    assert (folder / "runs.jsonl").read_text() == once  # what has ended is not run again
    return folder, {line["run"]["setting"]: line for line in map(json.loads, once.splitlines())}


@pytest.mark.long
def test_a_line_says_what_the_report_of_its_run_says(lines):
    folder, found = lines
    (run,) = folder.glob("runs/*-holdout-*")
    criteria = {one["name"]: one["value"] for one in json.loads((run / "adapter" / "report.json").read_text())["verdict"]["criteria"]}
    assert found["holdout"]["left"] == [criteria.get("reworded_probability"), criteria.get("reworded_memorization")]
    assert set(found) == set(auto.SETTINGS)
    for setting in ("never_seen", "holdout"):
        line = found[setting]
        (report,) = (json.loads(path.read_text()) for path in folder.glob(f"runs/*-{setting}-*/adapter/report.json"))
        assert (line["steps"], line["word"], line["reached"]) == (2, report["verdict"]["word"], False)
        for number, metric in (("forget: rouge_l", "rouge_l"), ("forget: extraction_strength", "extraction_strength")):
            assert line[number][0] == pytest.approx(report["results"]["forget"]["after"][metric]["mean"], abs=1e-4)
        assert line["log_p"][0] == pytest.approx(-report["results"]["forget"]["after"]["loss"]["mean"], rel=1e-3)
        assert line["holdout_auc"]["auc"][0] == pytest.approx(report["results"]["forget"]["after"]["min_k_auc"]["mean"], abs=1e-3)
        assert line["checks_only"]
        assert len(line["answers"]) == 8
        shares = [shown["after"] == shown["twin"] for shown in line["answers"]]
        assert line["same_answers"] == pytest.approx(sum(shares) / 8)
        for number, when in enumerate(("after", "before")):
            assert line["unseen"]["holdout"][number] == pytest.approx(report["results"]["holdout"][when]["min_k"]["mean"], rel=1e-3)
    assert found["retrained"]["log_p"][1] == found["holdout"]["log_p"][1]
    assert found["retrained"]["second_log_p"] == found["holdout"]["second_log_p"] != found["holdout"]["log_p"][1]


@pytest.mark.long
def test_what_a_run_is_given(lines):
    folder, _ = lines
    for setting in ("never_seen", "holdout"):
        (run,) = folder.glob(f"runs/*-{setting}-*")
        sets = {part: [json.loads(line) for line in (run / f"{part}.jsonl").read_text().splitlines()] for part in SETS}
        assert [len(sets[part]) for part in SETS] == [8, 16, 8]  # half of the holdout is fresh
        assert all("paraphrased_question" not in row for rows in sets.values() for row in rows)
        recipe = (run / "adapter" / "recipe.yaml").read_text()
        assert ("never_seen_model_name_or_path: null" in recipe) == (setting == "holdout")


@pytest.mark.long
def test_the_table_has_a_row_for_each_run_and_each_goal(lines, capsys):
    folder, _ = lines
    auto.main(["table", "--runs", str(folder / "runs.jsonl")])
    printed = capsys.readouterr().out
    assert printed.count("| people ") == 3
    assert "0 of 1" in next(row for row in printed.splitlines() if row.startswith("| target reached"))


@pytest.mark.long
def test_what_nobody_taught_stands_beside_a_second_twin(lines, capsys):
    folder, found = lines
    auto.main(["beside", "--runs", str(folder / "runs.jsonl")])
    printed = capsys.readouterr().out
    assert printed.count("| people ") == 3
    assert f"[{found['holdout']['second_log_p']:.3g}]" in printed


def test_public_rows_have_each_subject_whole_in_one_set():
    subjects = [[{"text": f"{subject} {row}"} for row in range(1 + subject % 4)] for subject in range(200)]
    found = public_rows.split(subjects)
    assert set(found) == set(ROWS)
    assert all(len(rows) >= ROWS[part] for part, rows in found.items())
    texts = [row["text"] for rows in found.values() for row in rows]
    assert len(texts) == len(set(texts))
    for rows in found.values():
        for subject in {row["text"].split()[0] for row in rows}:
            assert sum(row["text"].split()[0] == subject for row in rows) == 1 + int(subject) % 4


def test_functions_of_pythons_library_are_rows_that_compile():
    for rows in itertools.islice(public_rows.code(), 3):
        for row in rows:
            body = "".join(f"    {line}\n" for line in row["completion"].splitlines())
            compile(row["prompt"] + body, "row", "exec")
