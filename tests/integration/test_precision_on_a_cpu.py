"""Where a recipe leaves the precision open, a CPU is tried, and what was found is written down."""

import json
from pathlib import Path

import pytest
import yaml
from transformers import LlamaConfig

from peft_unlearn.cli import main
from peft_unlearn.workflows import precision


@pytest.fixture
def values(tmp_path):
    """A recipe's values, with a base of hidden size 512 by its config."""
    LlamaConfig(hidden_size=512, num_attention_heads=8).save_pretrained(tmp_path / "wide")
    return {"model_name_or_path": str(tmp_path / "wide"), "output_dir": str(tmp_path / "out"), "use_cpu": True}


def faster(width):
    return 2.0


@pytest.mark.parametrize(("speedup", "wanted"), [(2.0, True), (1.1, None), (0.2, None)])
def test_bf16_is_taken_where_it_is_faster(speedup, wanted, values):
    assert precision.chosen(values, lambda width: speedup).get("bf16") is wanted


@pytest.mark.parametrize("own", [{"dtype": "float32"}, {"bf16": False}, {"fp16": False}, {"load_in_4bit": True}])
def test_who_has_decided_is_not_asked(own, values):
    assert precision.chosen({**values, **own}, faster) == {**values, **own}


def test_nor_are_narrow_bases_unknown_ones_and_several_processes(values, bed, monkeypatch):
    for base in (str(bed / "base"), "nowhere/at-all"):
        assert "bf16" not in precision.chosen({**values, "model_name_or_path": base}, faster)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "bf16" not in precision.chosen(values, faster)


def test_a_run_goes_on_as_it_began(values):
    out = Path(values["output_dir"])
    out.mkdir()
    for began in (True, False):
        (out / "recipe.yaml").write_text(yaml.safe_dump({**values, "bf16": began}))
        assert ("bf16" in precision.chosen(values, faster)) is began


def test_a_command_that_takes_it_writes_it_down(recipe, monkeypatch):
    monkeypatch.setattr(precision, "NARROWEST", 1)
    monkeypatch.setattr(precision, "measured", faster)
    assert main(["train", recipe(use_cpu="left out")]) == 0
    assert yaml.safe_load(Path("out/recipe.yaml").read_text())["bf16"] is True


def test_a_speed_is_measured():
    assert 0.01 < precision.measured(512) < 100


def test_before_and_after_are_computed_alike_under_autocast(recipe, tmp_path):
    """The report's numbers are those of `evaluate`, which knows of no autocast."""
    assert main(["train", recipe(bf16=True, learning_rate=1e-2)]) == 0
    assert main(["evaluate", "out", "--output", "again.json"]) == 0
    reports = [json.loads(Path(file).read_text())["results"]["forget"] for file in ("out/report.json", "again.json")]
    for view in ("before", "after"):
        assert reports[0][view]["loss"]["rows"] == pytest.approx(reports[1][view]["loss"]["rows"], abs=1e-6)
