"""The numbers before and after, where a recipe names a tracker: TensorBoard reads its files back, W&B its own summary, offline."""

import json
from pathlib import Path

import pytest

from peft_unlearn.cli import main
from peft_unlearn.workflows.train_run import tracked


def means(output: str) -> dict[str, float]:
    """Of every view of a report, by the name that a tracker is told."""
    results = json.loads(Path(output, "report.json").read_text())["results"]
    found = {}
    for name in results:
        for view in results[name]:
            for metric in results[name][view]:
                found[f"{name}/{metric}/{view}"] = results[name][view][metric]["mean"]
    return {key: mean for key, mean in found.items() if mean is not None}


def test_what_has_no_number_is_not_tracked():
    entries = {"loss": {"mean": 2.0}, "secrets": {"mean": None}}
    assert tracked({"results": {"forget": {"before": entries, "after": {"loss": {"mean": 3.0}}}}}) == {
        "forget/loss/before": 2.0,
        "forget/loss/after": 3.0,
    }


def test_tensorboard_has_before_and_after(recipe, monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard, which a user of it has, is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "board")
    assert main(["train", recipe(report_to="tensorboard")]) == 0
    found = EventAccumulator("board")
    found.Reload()
    told = {tag.removeprefix("train/"): found.Scalars(tag)[-1].value for tag in found.Tags()["scalars"]}
    wanted = means("out")
    assert {"forget/extraction_strength/before", "forget/extraction_strength/after"} <= wanted.keys()
    assert {key: told.get(key) for key in wanted} == pytest.approx(wanted, rel=1e-6)


def test_wandb_has_before_and_after(recipe, monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb", reason="wandb, which a user of it has, is not installed")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    try:
        assert main(["train", recipe(report_to="wandb")]) == 0
        told = dict(wandb.run.summary)
    finally:
        wandb.finish()
    wanted = means("out")
    assert {key: told.get(f"train/{key}") for key in wanted} == pytest.approx(wanted, rel=1e-6)
