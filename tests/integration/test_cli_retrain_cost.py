"""`retrain-cost` on the command line: rows, tokens and steps are those of the files, and its time is that of its steps."""

import json
from pathlib import Path

import pytest
from cli_bed import refused
from transformers import AutoTokenizer

from peft_unlearn.cli import main
from peft_unlearn.workflows import RetrainCostRequest, retrain_cost


def test_it_counts_the_rows_that_are_kept(recipe, bed, capsys):
    path = recipe(adapter_name_or_path=str(bed / "lora"), adapter_mode="stack", forget_floor=0)
    both = [json.loads(line) for name in ("retain", "forget") for line in (bed / f"{name}.jsonl").read_text().splitlines()]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in both))
    found = retrain_cost(RetrainCostRequest(path, train="train.jsonl", epochs=2.5, batch=4))
    tokenizer = AutoTokenizer.from_pretrained(bed / "base")
    texts = [f"Question: {row['question']}\nAnswer: {row['answer']}" for row in both[:6]]
    assert (found.rows, found.left_out, found.forgetting) == (6, 4, None)
    assert found.tokens == sum(len(tokenizer(text)["input_ids"]) + 1 for text in texts)  # and the end
    assert found.steps == 4  # 2.5 times 6 rows, by four
    assert found.seconds == pytest.approx(4 * found.seconds_a_step)
    assert main(["train", path]) == 0
    steps, seconds = retrain_cost(RetrainCostRequest(path)).forgetting
    assert steps == 2
    assert seconds == json.loads(Path("out/report.json").read_text())["run"]["seconds"]
    capsys.readouterr()
    assert main(["retrain-cost", "--train", "train.jsonl", path]) == 0
    said = capsys.readouterr().out
    assert "4 rows of the training set are to be forgotten" in said
    assert "forgetting them, as it was" in said
    refused(capsys, ["retrain-cost", "--train", str(bed / "forget.jsonl"), path], "train", "no row of it is to be kept")
    refused(capsys, ["retrain-cost", "--epochs", "0", path], "epochs")
