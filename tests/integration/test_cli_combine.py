"""`combine` on the command line: the user's own LoRA and a run's adapter, as one that is used like the own one was."""

import json
from pathlib import Path

import pytest
import torch
from cli_bed import refused
from peft import PeftModel
from transformers import AutoModelForCausalLM

from peft_unlearn.cli import main

IDS = torch.tensor([[1, 5, 6, 7]])


def logits(base, *adapters, ids=IDS):
    model = AutoModelForCausalLM.from_pretrained(base)
    for name, adapter in enumerate(adapters):
        model = model if name else PeftModel.from_pretrained(model, adapter, adapter_name="0")
        if name:
            model.load_adapter(adapter, adapter_name=str(name))
    model.base_model.set_adapter([str(name) for name in range(len(adapters))])
    with torch.no_grad():
        return model(ids).logits


def test_a_stacked_run_ends_in_one_lora_with_its_numbers(recipe, bed, capsys):
    lora = str(bed / "lora")
    assert main(["train", recipe(adapter_name_or_path=lora, adapter_mode="stack", learning_rate="1e-2", forget_floor=0)]) == 0
    assert main(["combine", lora, "out", "--output", "one"]) == 0
    assert "exactly" in capsys.readouterr().out
    stacked, one = logits(bed / "base", lora, "out"), logits(bed / "base", "one")
    assert (one - stacked).norm() <= 1e-5 * stacked.norm()
    card = Path("one/README.md").read_text()
    assert "*Before* is the same base with `lora` as it was" in card
    assert "adapter_name=" not in card
    assert Path("one/report.json").read_bytes() == Path("out/report.json").read_bytes()
    reported = json.loads(Path("out/report.json").read_text())["results"]["forget"]
    assert main(["evaluate", "one", "--output", "again.json"]) == 0
    found = json.loads(Path("again.json").read_text())["results"]["forget"]
    for view in ("before", "after", "never_seen"):
        assert found[view]["loss"]["mean"] == pytest.approx(reported[view]["loss"]["mean"], rel=1e-4)

    assert main(["combine", lora, "out", "--output", "small", "--rank", "2"]) == 0
    said = capsys.readouterr().out
    assert "% of the energy" in said
    assert "peft-unlearn evaluate small --output small/report.json" in said
    assert not Path("small/report.json").exists()
    assert "was not evaluated" in Path("small/README.md").read_text()
    refused(capsys, ["combine", lora, "out", "--output", "one"], "output", "not an empty folder")
    refused(capsys, ["combine", lora, "--output", "two"], "adapters", "two or more")
    refused(capsys, ["combine", lora, "missing", "--output", "two"], "adapters", "missing")


def test_an_adapter_that_was_trained_further_is_one_already(recipe, bed, capsys):
    assert main(["train", recipe(adapter_name_or_path=str(bed / "lora"), adapter_mode="continue", max_steps=1, forget_floor=0)]) == 0
    card = Path("out/README.md").read_text()
    assert "It is `lora` with the forgetting in it" in card
    assert "with `lora` as it was" in card
    refused(capsys, ["combine", str(bed / "lora"), "out", "--output", "one"], "one LoRA already")
