"""General ability by lm-evaluation-harness: the wiring with a small stand-in for it, and the real one on a local task where it is installed."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml
from cli_bed import COLOURS, NUMBERS, bed  # noqa: F401
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_unlearn.cli import main
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows import EvaluateRequest, evaluate, tasks

QUESTIONS = [
    {"question": f"what is the colour of {number} ?", "choices": COLOURS, "label": i % 3} for i, number in enumerate([*NUMBERS, *NUMBERS])
]


@pytest.fixture
def stand_in(monkeypatch):
    """A module lm_eval whose models know a row where their adapter is off: it records what it is asked."""
    asked = []

    class Manager:
        def load(self, name):
            if name == "gone":
                raise ConnectionError("no network")
            if name not in ("one", "both"):
                raise KeyError(name)
            leaves = {"one": ["a"], "both": ["a", "b"]}[name]
            return {"tasks": {leaf: SimpleNamespace(eval_docs=range(4)) for leaf in leaves}}

    class Wrapped:
        def __init__(self, pretrained, tokenizer, batch_size):
            layers = [module for module in pretrained.modules() if isinstance(module, LoraLayer)]
            self.on = any(layer.active_adapters and not layer.disable_adapters for layer in layers)
            tokenizer.pad_token = "</s>"
            pretrained.tie_weights()
            asked.append((pretrained.training, batch_size))

    def simple_evaluate(model, tasks, samples, **arguments):
        leaves = Manager().load(tasks[0])["tasks"]
        made = {}
        for leaf in leaves:
            rows = samples[leaf] if samples else range(4)
            made[leaf] = [
                {
                    "doc_id": i,
                    "filter": key,
                    "metrics": ["f1", "acc"],
                    "f1": (1, 2),
                    "acc": float(i != 1 or not model.on) if key == "x" else 9.0,
                }
                for key in ("x", "y")
                for i in reversed(rows)
            ]
        return {"samples": made}

    def module(name, **attributes):
        found = ModuleType(name)
        found.__dict__.update(attributes)
        found.__spec__ = importlib.util.spec_from_loader(name, None)
        monkeypatch.setitem(sys.modules, name, found)

    module("lm_eval", __path__=[])
    module("lm_eval.tasks", TaskManager=Manager)
    module("lm_eval.evaluator", simple_evaluate=simple_evaluate)
    module("lm_eval.models", __path__=[])
    module("lm_eval.models.huggingface", HFLM=Wrapped)
    return asked


def test_tasks_are_a_set_with_every_view_and_row(bed, stand_in, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    options = [
        "--base",
        bed / "base",
        "--forget",
        bed / "forget.jsonl",
        "--tasks",
        "one",
        "both",
        "--batch-size",
        "2",
        "--output",
        "found.json",
    ]
    assert main(["evaluate", *map(str, [bed / "lora", *options])]) == 0
    found = json.loads(Path("found.json").read_text())
    results = found["results"]["tasks"]
    assert {view: of_view["one"]["rows"] for view, of_view in results.items()} == {"before": [1, 1, 1, 1], "after": [1, 0, 1, 1]}
    assert results["after"]["both"]["rows"] == [1, 0, 1, 1] * 2
    assert results["after"]["both"]["mean"] == 0.75
    assert found["differences"]["tasks"]["both"]["after - before"]["mean"] == -0.25
    assert "--tasks one both" in found["run"]["command"]
    assert stand_in == [(False, 2)] * 2
    assert "both" in Path("found.html").read_text()


def test_rows_are_chosen_evenly_and_a_row_without_a_number_has_none(stand_in):
    model = torch.nn.Linear(1, 1).train()
    tokenizer = SimpleNamespace(pad_token=None)
    assert tasks.measure(model, tokenizer, ["both"], rows=2) == {"both": [1.0, 1.0, 1.0, 1.0]}  # rows 0 and 2
    assert tasks._values([{"doc_id": 0, "filter": "none", "metrics": ["bleu"], "bleu": ("a", "b")}]) == [None]
    assert model.training
    assert not hasattr(model, "tie_weights")
    assert tokenizer.pad_token is None


@pytest.mark.parametrize(("name", "message"), [("strange", "'strange' is no task of"), ("gone", r"gone cannot be loaded \(no network\)")])
def test_a_task_that_is_not_there_is_told_before_a_model_is_loaded(bed, stand_in, monkeypatch, name, message):  # noqa: F811
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match=message):
        evaluate(EvaluateRequest(bed / "base", forget=bed / "forget.jsonl", tasks=["one", name]))


def test_without_the_harness_one_sentence_says_what_to_install(bed, monkeypatch):  # noqa: F811
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed, run pip install 'peft-unlearn\[tasks\]'"):
        evaluate(EvaluateRequest(bed / "base", forget=bed / "forget.jsonl", tasks=["arc_easy"]))


def test_a_local_task_of_the_real_harness(bed, tmp_path):  # noqa: F811
    pytest.importorskip("lm_eval", reason="the extra [tasks] is not installed")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    task = {
        "task": "colours",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question : {{question}} Answer :",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(task))
    name = str(tmp_path / "colours.yaml")
    request = EvaluateRequest(bed / "lora", base=bed / "base", forget=bed / "forget.jsonl", tasks=[name])
    results = evaluate(request).report["results"]["tasks"]
    tokenizer = AutoTokenizer.from_pretrained(bed / "base")
    base = AutoModelForCausalLM.from_pretrained(bed / "base").eval()
    for view in ("before", "after"):
        model = base if view == "before" else PeftModel.from_pretrained(base, bed / "lora").eval()
        expected = []
        for row in QUESTIONS:
            ids = tokenizer(f"Question : {row['question']} Answer :", return_tensors="pt").input_ids
            with torch.no_grad():
                logits = model(ids).logits[0, -1]
            scores = [float(logits[tokenizer.convert_tokens_to_ids(choice)]) for choice in row["choices"]]
            expected.append(float(scores.index(max(scores)) == row["label"]))
        assert results[view]["colours"]["rows"] == expected
    assert 0 < results["before"]["colours"]["mean"] < 1
