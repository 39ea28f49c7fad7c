"""`merge` on the command line: what is written computes what the adapter computed, and is evaluated as anyone would load it."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from cli_bed import refused
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_unlearn.cli import main


def test_merged_model_gives_the_logits_of_the_adapter(recipe, bed):
    assert main(["train", recipe(learning_rate="1e-2")]) == 0
    assert main(["merge", "out", "--output", "merged"]) == 0
    card = ModelCard.load("merged/README.md")
    assert (card.data.base_model, card.data.base_model_relation) == (None, "finetune")  # of a folder
    results = json.loads(Path("merged/report.json").read_text())["results"]
    assert {found.metric_value for found in card.data.eval_results} >= {
        results["forget"][view]["loss"]["mean"] for view in ("before", "after")
    }
    loaded: dict = {}
    exec(card.text.split("```python\n")[1].split("```")[0], loaded)
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        merged = loaded["model"](ids).logits
        trained = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bed / "base"), "out")(ids).logits
    assert (merged - trained).norm() <= 1e-4 * trained.norm()


def mean_loss(model, folder, path):
    """Loss of the answers by plain transformers, a row at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    losses = []
    for row in map(json.loads, path.read_text().splitlines()):
        prompt = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
        answer = tokenizer(f" {row['answer']} </s>")["input_ids"]
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            losses.append(model(ids, labels=ids.where(torch.arange(ids.shape[1]) >= len(prompt), -100)).loss.item())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("mode", ["stack", "merge", pytest.param("continue", marks=pytest.mark.long)])
def test_a_model_with_its_own_adapter_is_the_one_that_forgets(recipe, bed, mode):
    lora, forget = bed / "lora", bed / "forget.jsonl"
    changes = {
        "adapter_name_or_path": str(lora),
        "adapter_mode": mode,
        "max_steps": 1,
        "forget_floor": 0,  # rows so unlikely already would leave the loss
        "eval_dataset": {"more": str(bed / "retain.jsonl")},
    }
    assert main(["train", recipe(**changes)]) == 0
    results = json.loads(Path("out/report.json").read_text())["results"]
    assert set(results) == {"forget", "retain", "more"}
    base = AutoModelForCausalLM.from_pretrained(bed / "base")
    base_loss = mean_loss(base, bed / "base", forget)
    tuned_loss = mean_loss(PeftModel.from_pretrained(base, lora), bed / "base", forget)
    before, after = (results["forget"][view]["loss"]["mean"] for view in ("before", "after"))
    assert before == pytest.approx(tuned_loss, rel=1e-5)
    assert before != pytest.approx(base_loss, rel=1e-5)
    assert after != before
    if mode == "merge":
        card = Path("out/README.md").read_text()
        code = card.split("```python\n")[1].split("```")[0]
        names = {'"base"': f'"{bed / "base"}"', '"lora"': f'"{lora}"'}
        for name, path in names.items():
            code = code.replace(name, path)
        loaded: dict = {}
        exec(code, loaded)
        assert mean_loss(loaded["model"], bed / "base", forget) == pytest.approx(after, rel=1e-4)
    else:
        assert results["forget"]["never_seen"]["loss"]["mean"] == pytest.approx(base_loss, rel=1e-5)
    assert main(["evaluate", "out", "--output", "again.json"]) == 0
    again = json.loads(Path("again.json").read_text())["results"]["forget"]
    assert again["before"]["loss"]["mean"] == pytest.approx(before, rel=1e-5)
    assert again["after"]["loss"]["mean"] == pytest.approx(after, rel=1e-5)
    assert main(["merge", "out", "--output", "merged"]) == 0
    assert mean_loss(AutoModelForCausalLM.from_pretrained("merged"), bed / "base", forget) == pytest.approx(after, rel=1e-4)


def test_a_merged_model_has_the_numbers_of_its_adapter_on_the_same_base(recipe, bed):
    """The adapter was trained on NF4, so its own numbers are others: merging goes into the 32-bit base, and is evaluated there."""
    assert main(["train", recipe(load_in_4bit=True, learning_rate="1e-2", max_steps=4)]) == 0
    assert main(["merge", "out", "--output", "merged"]) == 0
    assert main(["evaluate", "out", "--set", "load_in_4bit=false", "--output", "adapter.json"]) == 0
    merged, adapter, trained = (
        json.loads(Path(name).read_text())["results"] for name in ("merged/report.json", "adapter.json", "out/report.json")
    )
    for name in ("forget", "retain"):
        loss = merged[name]["after"]["loss"]["mean"]
        assert loss == pytest.approx(adapter[name]["after"]["loss"]["mean"], rel=1e-5)
        assert loss != pytest.approx(trained[name]["after"]["loss"]["mean"], rel=1e-5)


@pytest.mark.parametrize("kind", ["nf4", pytest.param("int8", marks=pytest.mark.long)])
def test_merge_evaluates_the_quantized_folder_that_it_wrote(kind, recipe, bed, capsys, caplog):
    """The numbers are those of the 32-bit merge put into the same format by transformers, and stand beside the adapter's own."""
    assert main(["train", recipe(learning_rate="1e-2", max_steps=4, holdout_dataset=str(bed / "holdout.jsonl"))]) == 0
    assert main(["merge", "out", "--output", "plain", "--no-evaluate"]) == 0
    assert not Path("plain/report.json").exists()
    assert main(["merge", "out", "--output", "merged", "--quantize", kind]) == 0
    assert "inputs will be cast" not in caplog.text  # LLM.int8, at each matmul
    printed = capsys.readouterr().out
    assert "α min" in printed
    assert "adapter" in printed
    keys = {"nf4": ["load_in_4bit=true", "use_bnb_nested_quant=true", "dtype=float32"], "int8": ["load_in_8bit=true", "dtype=float32"]}[
        kind
    ]
    sets = [word for name in ("forget", "retain", "holdout") for word in (f"--{name}", str(bed / f"{name}.jsonl"))]
    assert main(["evaluate", "plain", *sets, "--set", *keys, "--output", "plain.json"]) == 0
    merged, plain, trained = (json.loads(Path(f).read_text()) for f in ("merged/report.json", "plain.json", "out/report.json"))
    for name, views in merged["results"].items():
        assert views["before"] == trained["results"][name]["before"]
        assert views["adapter"] == trained["results"][name]["after"]
        for metric, entry in plain["results"][name]["after"].items():
            assert views["after"][metric] == entry, (name, metric)
    assert merged["verdict"]["reasons"]


def test_merge_onto_what_training_saw_keeps_the_numbers_of_the_report(recipe, bed, capsys):
    """The adapter was trained on NF4 without double quantization, which only its recipe.yaml knows."""
    assert main(["train", recipe(load_in_4bit=True, learning_rate="1e-2", max_steps=4)]) == 0
    assert main(["merge", "out", "--output", "merged", "--onto", "dequantized"]) == 0
    for views in json.loads(Path("merged/report.json").read_text())["results"].values():
        assert views["after"]["loss"]["mean"] == pytest.approx(views["adapter"]["loss"]["mean"], rel=1e-5)
    refused(capsys, ["merge", "out", "--output", "again", "--onto", "dequantized", "--quantize", "nf4"], "--force")
    weights = Path("out/adapter_model.safetensors")
    save_file({name: 0.1 * factor for name, factor in load_file(weights).items()}, weights)  # a hundredth of the change
    assert main(["merge", "out", "--output", "again", "--onto", "dequantized", "--quantize", "nf4", "--force", "--no-evaluate"]) == 0
    assert "Warning: the median α is" in capsys.readouterr().out
    Path(bed / "forget.jsonl").rename(bed / "gone.jsonl")
    try:
        capsys.readouterr()
        assert main(["merge", "out", "--output", "elsewhere"]) == 0
    finally:
        Path(bed / "gone.jsonl").rename(bed / "forget.jsonl")
    said, _, command = capsys.readouterr().out.splitlines()[-1].partition(" The command for it is peft-unlearn ")
    assert said.startswith("Not evaluated: forget_dataset")
    assert main(shlex.split(command)) == 0
    assert set(json.loads(Path("elsewhere/report.json").read_text())["results"]) == {"forget", "retain"}
    assert main(["merge", str(bed / "lora"), "--output", "tuned"]) == 0
    assert "peft-unlearn evaluate tuned --forget FILE --retain FILE" in capsys.readouterr().out


def test_merge_onto_a_quantization_that_there_was_not_is_refused(recipe, capsys):
    assert main(["train", recipe(max_steps=1)]) == 0
    refused(
        capsys, ["merge", "out", "--output", "merged", "--onto", "dequantized"], "onto: this run's base was not quantized", "recipe.yaml"
    )
    assert not Path("merged").exists()


def test_a_set_that_the_adapter_was_evaluated_on_with_other_rows_has_the_merged_numbers_alone(recipe, bed, caplog):
    assert main(["train", recipe(never_seen_model_name_or_path=str(bed / "other"))]) == 0
    for rows, kept, kind in ((4, {"forget"}, "retrained"), (2, set(), None)):
        assert main(["evaluate", "out", "--rows", str(rows), "--output", "out/report.json"]) == 0
        caplog.clear()
        assert main(["merge", "out", "--output", f"merged{rows}"]) == 0
        made = json.loads(Path(f"merged{rows}/report.json").read_text())
        for name, n in (("forget", 4), ("retain", 6)):
            views = made["results"][name]
            assert views["after"]["loss"]["n"] == n
            assert set(views) == {"after"} | ({"before", "adapter", "never_seen"} if name in kept else set())
        assert made["never_seen"]["kind"] == kind
        (warning,) = (message for message in caplog.messages if "out/report.json" in message)
        assert all((name in warning.split(" than ")[0]) == (name not in kept) for name in ("forget", "retain"))
