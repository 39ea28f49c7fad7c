"""The command line, in this process: a whole run and its folder, and every bad input refused before a model is loaded."""

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cli_bed import refused
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from verdicts import last_line

from peft_unlearn import __version__, publish
from peft_unlearn.cli import main
from peft_unlearn.config import methods
from peft_unlearn.demo import model as demo_model
from peft_unlearn.demo import people as demo_people
from peft_unlearn.model import adapters
from peft_unlearn.training import trainer
from peft_unlearn.util import folders
from peft_unlearn.util.folders import claimed


def test_train_writes_an_adapter_that_plain_peft_loads(recipe, bed, capsys):
    assert main(["train", recipe(), "--max_steps", "3", "--learning_rate", "1e-2"]) == 0
    out = Path("out")
    assert {path.name for path in out.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        "recipe.yaml",
        "report.json",
    }
    tensors = load_file(out / "adapter_model.safetensors")
    assert tensors
    assert not [name for name in tensors if "teacher" in name]
    assert all(tensor.abs().sum() > 0 for name, tensor in tensors.items() if "lora_B" in name)
    report = json.loads((out / "report.json").read_text())
    assert report["run"]["steps"] == 3
    assert report["run"]["unmoved_lora_b"] == 0
    assert set(report["results"]) == {"forget", "retain"}
    assert set(report["results"]["forget"]) == {"before", "after"}
    shown = capsys.readouterr().out
    assert "probability" in shown
    verdict = json.loads(Path("out/report.json").read_text())["verdict"]
    assert shown.splitlines()[-1] == last_line(verdict)
    for said in (*verdict["training"], *verdict["next"]):
        assert " ".join(said.split()) in " ".join(shown.split())
    base = AutoModelForCausalLM.from_pretrained(bed / "base")
    ids = torch.tensor([[1, 5, 6, 7]])
    before = base(ids).logits
    assert not PeftModel.from_pretrained(base, out)(ids).logits.allclose(before)


def test_written_recipe_gives_the_same_run_again(recipe, capsys):
    """In a folder whose name looks like markup, too, and the terminal shows it."""
    assert main(["train", recipe(load_in_4bit=True, learning_rate="1e-2")]) == 0
    assert main(["train", "out/recipe.yaml", "--output_dir", "again[/b]"]) == 0
    assert "Adapter, card, recipe and report are in again[/b]\n" in capsys.readouterr().out
    first, second = load_file("out/adapter_model.safetensors"), load_file("again[/b]/adapter_model.safetensors")
    assert all(second[name].equal(tensor) for name, tensor in first.items())


@pytest.mark.parametrize("precision", [{}, {"load_in_4bit": True}, pytest.param({"load_in_8bit": True}, marks=pytest.mark.long)])
def test_evaluate_gives_the_numbers_of_the_report(recipe, precision):
    """To the last bit: the same rows in the same batches, through weights that were saved and loaded."""
    assert main(["train", recipe(learning_rate="1e-2", per_device_eval_batch_size=3, **precision)]) == 0
    assert main(["evaluate", "out", "--output", "again.json"]) == 0
    reported, again = (json.loads(Path(name).read_text())["results"] for name in ("out/report.json", "again.json"))
    for name, views in reported.items():
        for view, metrics in views.items():
            for metric, entry in metrics.items():
                assert again[name][view][metric] == entry, (name, view, metric)


@pytest.mark.parametrize(("stop_at", "never_seen"), [("auto", None), ("never_seen", "other")])
def test_a_run_that_stops_early_reports_the_holdout_and_whether_it_got_there(recipe, bed, stop_at, never_seen):
    known = {"never_seen_model_name_or_path": str(bed / never_seen)} if never_seen else {}
    rows = [json.loads(line) for line in (bed / "holdout.jsonl").read_text().splitlines()]
    many = [rows[n % len(rows)] | {"question": f"w{30 + n // len(rows)} {rows[n % len(rows)]['question']}"} for n in range(24)]
    Path("many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))  # of fewer rows none is held
    changes = {
        "method": "ngdiff",
        "stop_at": stop_at,
        "holdout_dataset": "many.jsonl",
        "max_steps": 3,
        "per_device_eval_batch_size": 64,
    } | known
    assert main(["train", recipe(**changes)]) == 0
    report = json.loads(Path("out/report.json").read_text())
    assert set(report["results"]) == {"forget", "retain", "holdout"}
    views = {"before", "after"} | ({"never_seen"} if never_seen else set())
    assert set(report["results"]["holdout"]) == views
    assert report["run"]["reached"] is False  # 3 steps are fewer than any pass
    assert report["run"]["settings"]["holdout_kl"] == "reference"
    assert report["run"]["settings"]["forget_loss"] == "log_odds"
    assert main(["train", recipe(output_dir="free", holdout_kl="none", **changes)]) == 0
    held, free = (load_file(f"{folder}/adapter_model.safetensors") for folder in ("out", "free"))
    assert not all(free[name].equal(tensor) for name, tensor in held.items())


BAD = {
    "unknown key": (lambda w: {"learnin_rate": 1}, "learnin_rate", "learning_rate?"),
    "axolotl's key": (lambda w: {"sequence_len": 512}, "sequence_len: write max_length", "axolotl"),
    "LLaMA-Factory's key": (lambda w: {"lora_rank": 8}, "lora_rank: write lora_r", "LLaMA-Factory"),
    "value out of range": (lambda w: {"forget_floor": 1.5}, "forget_floor", "0 to 1"),
    "value of another type": (lambda w: {"learning_rate": "fast"}, "learning_rate: 'fast' is not a number"),
    "no model named": (lambda w: {"model_name_or_path": "left out"}, "model_name_or_path: it is missing"),
    "no forget set named": (lambda w: {"forget_dataset": "left out"}, "forget_dataset: it is missing"),
    "no output folder named": (lambda w: {"output_dir": "left out"}, "output_dir: it is missing"),
    "missing model": (lambda w: {"model_name_or_path": "./nowhere"}, "model_name_or_path: './nowhere'"),
    "missing file": (lambda w: {"forget_dataset": "none.jsonl"}, "forget_dataset", "none.jsonl"),
    "missing column": (lambda w: {"forget_dataset": str(w / "columns.jsonl")}, "forget_dataset", "none of its 2 columns"),
    "empty set": (lambda w: {"retain_dataset": str(w / "empty.jsonl")}, "retain_dataset", "no rows"),
    "missing further set": (lambda w: {"eval_dataset": {"facts": "none.jsonl"}}, "eval_dataset.facts", "none.jsonl"),
    "forget rows in the retain set": (lambda w: {"retain_dataset": str(w / "forget.jsonl")}, "forget_dataset: row 1", "retain_dataset"),
    "forget rows in the holdout": (lambda w: {"holdout_dataset": str(w / "forget.jsonl")}, "forget_dataset: row 1", "holdout_dataset as row 1"),
    "prompt longer than the context": (lambda w: {"max_length": 4}, "forget_dataset: row 1", "max_length"),
    "init that changes the base": (lambda w: {"init_lora_weights": "pissa"}, "init_lora_weights"),
    "missing adapter": (lambda w: {"adapter_name_or_path": "./nowhere"}, "adapter_name_or_path: './nowhere'"),
    "adapter of another base": (
        lambda w: {"adapter_name_or_path": str(w / "lora"), "model_name_or_path": str(w / "wide")},
        "adapter_name_or_path", "does not fit the base", "q_proj",
    ),
    "model of another kind": (lambda w: {"model_name_or_path": str(w / "t5")}, "model_name_or_path", "is a t5"),
    "modules that the model lacks": (lambda w: {"lora_target_modules": "qkv_proj"}, "no module named qkv_proj", "q_proj"),
    "one module that the model lacks": (lambda w: {"lora_target_modules": ["q_proj", "qkv"]}, "no module named qkv;", "q_proj"),
    "output in a file": (lambda w: {"output_dir": "my.yaml/out"}, "output_dir: my.yaml/out cannot be made in"),
    "reporter that is not there": (lambda w: {"report_to": "magic"}, "report_to: 'magic' is not installed"),
    "optimizer that is not there": (lambda w: {"optim": "galore_adamw"}, "optim: 'galore_adamw'", "galore_torch"),
    "broken line": (lambda w: {"forget_dataset": str(w / "broken.jsonl")}, "forget_dataset: cannot load", "broken.jsonl (line 2 is not JSON)"),
    "nothing to resume": (lambda w: {"resume_from_checkpoint": True}, "resume_from_checkpoint", "no checkpoint that is whole"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_before_a_model_is_loaded_and_writes_nothing(name, recipe, bed, capsys, no_model):
    changes, *words = BAD[name]
    refused(capsys, ["train", recipe(**changes(bed))], *words)
    assert not Path("out").exists()


def test_bad_overrides_are_refused_like_bad_keys(recipe, capsys, no_model):
    refused(capsys, ["train", recipe(), "--lora_rank", "8"], "lora_rank: write lora_r")
    refused(capsys, ["train", recipe(), "--seed", "one"], "seed: 'one' is not a whole number")
    refused(capsys, ["train", "none.yaml"], "none.yaml does not exist")


def test_a_finished_run_is_not_overwritten(recipe, capsys, monkeypatch):
    assert main(["train", recipe()]) == 0
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    monkeypatch.setattr(adapters, "load_base", None)
    refused(capsys, ["train", recipe()], "output_dir: out holds a run already")
    refused(capsys, ["train", recipe(seed=1)], "output_dir: out holds another run", "seed")
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before


def test_a_cut_run_goes_on_where_it_was_cut(recipe, capsys):
    whole = recipe(max_steps=4, save_strategy="steps", save_steps=2, learning_rate="1e-2")
    assert main(["train", whole, "--output_dir", "whole"]) == 0
    assert main(["train", whole]) == 0
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md", "report.json"):
        Path("out", name).unlink()
    for path in Path("out/checkpoint-4").iterdir():
        path.unlink()
    Path("out/checkpoint-4").rmdir()
    refused(capsys, ["train", whole], "resume_from_checkpoint: true")
    refused(capsys, ["train", whole, "--resume_from_checkpoint", "true", "--seed", "3"], "seed differs")
    assert main(["train", whole, "--resume_from_checkpoint", "true"]) == 0
    resumed, uncut = load_file("out/adapter_model.safetensors"), load_file("whole/adapter_model.safetensors")
    assert all(resumed[name].equal(tensor) for name, tensor in uncut.items())


def test_divergence_keeps_the_last_good_adapter_and_says_so(recipe, bed, capsys):
    refused(capsys, ["train", recipe(method="graddiff", learning_rate="1e30", max_grad_norm=0, max_steps=5)], "NaN or infinite at step")
    report = json.loads(Path("out/report.json").read_text())
    assert "NaN or infinite" in report["run"]["stopped"]
    card = Path("out/README.md").read_text()
    assert f"The run stopped early: {report['run']['stopped'].rstrip('.')}." in card
    assert "This is the last good adapter." in card
    assert all(tensor.isfinite().all() for tensor in load_file("out/adapter_model.safetensors").values())
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bed / "base"), "out")
    assert loaded(torch.tensor([[1, 5, 6, 7]])).logits.isfinite().all()


def test_layers_that_did_not_move_are_warned_about(recipe, caplog):
    with caplog.at_level(logging.WARNING):
        assert main(["train", recipe(learning_rate="1e-300", optim="sgd")]) == 0
    assert "lora_B matrices did not move" in caplog.text


def test_evaluate_says_what_it_lacks(bed, recipe, capsys, no_model):
    recipe()
    refused(capsys, ["evaluate", "./nowhere"], "model", "nowhere")
    refused(capsys, ["evaluate", str(bed / "lora")], "write --forget")
    refused(capsys, ["evaluate", str(bed / "base")], "write --forget")
    refused(capsys, ["evaluate", str(bed / "base"), "--base", "other"], "leave --base out")
    refused(
        capsys,
        ["evaluate", str(bed / "lora"), "--forget", "x.jsonl", "--batch-size", "0"],
        "per_device_eval_batch_size: 0 is out of range",
    )
    refused(capsys, ["evaluate", str(bed / "lora"), "--forget", "x.jsonl", "--set", "lora_rank=8"], "lora_rank: write lora_r")
    refused(capsys, ["evaluate", str(bed / "lora"), "--forget", "none.jsonl"], "forget_dataset", "none.jsonl")
    refused(capsys, ["evaluate", str(bed / "lora"), "--forget", "x.jsonl", "--output", "."], "output: . is a folder", "report.json")
    refused(capsys, ["evaluate", str(bed / "lora"), "--forget", "x.jsonl", "--output", "my.yaml/x"], "output: my.yaml/x cannot be made")


def test_evaluate_takes_an_adapter_without_a_recipe(bed, recipe):
    recipe()
    assert main(["evaluate", str(bed / "lora"), "--forget", str(bed / "forget.jsonl"), "--rows", "2", "--output", "new/found.json"]) == 0
    found = json.loads(Path("new/found.json").read_text())["results"]["forget"]
    assert found["before"]["loss"]["n"] == 2
    assert found["before"]["loss"]["mean"] != found["after"]["loss"]["mean"]


def test_a_base_that_the_user_names_is_taken_with_a_warning(bed, recipe, caplog):
    """Bases are moved and renamed."""
    recipe()
    assert main(["evaluate", str(bed / "lora"), "--base", str(bed / "other"), "--forget", str(bed / "forget.jsonl")]) == 0
    (warning,) = (r.getMessage() for r in caplog.records if r.name.startswith("peft_unlearn") and r.levelname == "WARNING")
    assert f"says that its base is {bed / 'base'}, and is put on {bed / 'other'}" in warning


@pytest.mark.parametrize("damaged", ["base", "lora"])
def test_damaged_weights_are_one_sentence(damaged, bed, recipe, capsys):
    for name in ("base", "lora"):
        shutil.copytree(bed / name, name)
    weights = Path(damaged, "model.safetensors" if damaged == "base" else "adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    keys = {"model_name_or_path": "base", "adapter_name_or_path": "lora"}
    refused(capsys, ["train", recipe(**keys)], f"'{damaged}", "is truncated or damaged", "again")
    assert not Path("out").exists()


def test_two_runs_do_not_share_a_folder(recipe, capsys, no_model):
    with claimed(Path("out"), key="output_dir"):
        refused(capsys, ["train", recipe()], "output_dir: another run is writing into out")
        Path("out", "recipe.yaml.tmp").write_text("theirs")
    assert [path.name for path in Path("out").iterdir()] == ["recipe.yaml.tmp"]


def test_a_run_that_would_not_fit_on_the_disk_does_not_begin(recipe, capsys, monkeypatch):
    monkeypatch.setattr(folders, "shutil", SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=1000)))
    monkeypatch.setattr(trainer.UnlearnTrainer, "train", None)
    size = 2 * 4 * (4 * (64 + 64) + 3 * (64 + 128)) * 4  # 2 layers, r 4, A and B of four projections and three, 4 bytes each
    refused(capsys, ["train", recipe(save_minutes=0)], f"output_dir: out has 0.00 MB free and {size / 1e6:.2f} MB are needed")
    refused(capsys, ["train", recipe()], f"{25 * size / 1e6:.2f} MB are needed")  # three checkpoints, with a good state each
    more = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 3}
    refused(capsys, ["train", recipe(**more)], f"and {33 * size / 1e6:.2f} MB are needed")
    assert not Path("out").exists()


def test_a_disk_that_fills_up_is_one_sentence(recipe, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", "out/README.md")

    monkeypatch.setattr(adapters, "load_base", full)
    refused(capsys, ["train", recipe()], "out/README.md: no room is left on the disk")


def test_uploads_are_private_unless_told_otherwise(recipe, monkeypatch):
    calls = []
    monkeypatch.setattr(publish, "push", lambda folder, repo, **options: calls.append((str(folder), repo, options["private"])) or "address")
    monkeypatch.setattr(publish, "check", lambda repo, **options: None)
    assert main(["train", recipe(push_to_hub=True, hub_model_id="me/mine", max_steps=1)]) == 0
    assert main(["push", "out", "me/adapter"]) == 0
    assert main(["push", "out", "me/adapter", "--public", "--yes"]) == 0
    assert main(["train", recipe(push_to_hub=True, hub_private_repo=False, max_steps=1, output_dir="second")]) == 0
    assert calls == [
        ("out", "me/mine", True),
        ("out", "me/adapter", True),
        ("out", "me/adapter", False),
        ("second", "second", False),
    ]


def test_an_upload_that_cannot_be_is_refused_before_a_model_is_loaded(recipe, capsys, monkeypatch, no_model):
    monkeypatch.setattr("peft_unlearn.publish.hub.get_token", lambda: None)
    refused(capsys, ["train", recipe(push_to_hub=True)], "you are not logged in to the Hub")
    assert not Path("out").exists()


@pytest.mark.long
def test_demo_is_a_run_of_each_method_and_can_be_repeated(bed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_model, "train_models", lambda *_: demo_model.Models(bed / "base", bed / "other"))
    monkeypatch.setattr(demo_people, "make_people", partial(demo_people.make_people, forget=1, retain=1, never_used=1))
    monkeypatch.setitem(methods.WITH_TARGETS, "max_steps", 2)
    assert main(["demo", "--method", "ngdiff", "mollm"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("ngdiff", "mollm", "never-seen", "worst of k"))
    reports = [json.loads(Path(f"runs/demo/{method}/report.json").read_text()) for method in ("ngdiff", "mollm")]
    assert all(set(report["results"]["retain"]) == {"before", "after", "never_seen"} for report in reports)
    assert [report["run"]["settings"]["method"] for report in reports] == ["ngdiff", "mollm"]
    assert shown.splitlines()[-1] == last_line(reports[-1]["verdict"])
    assert "NF4" in Path("runs/demo/ngdiff/README.md").read_text()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_model, "train_models", interrupted)
    assert main(["demo", "--method", "ngdiff"]) == 130
    assert not Path("runs/demo/ngdiff").exists()  # so that nothing is in the way of the run that comes
    Path("mine").mkdir()
    Path("mine/diary.txt").write_text("mine")
    refused(capsys, ["demo", "--output", "mine"], "output: mine holds something else than a demo")


def test_usage_errors_and_help(capsys):
    assert main([]) == 2
    assert main(["forget"]) == 2
    assert main(["--help"]) == 0
    assert main(["train", "--help"]) == 0
    assert "RECIPE.yaml" in capsys.readouterr().out
    assert main(["keys", "lora"]) == 0
    assert "lora_target_modules" in capsys.readouterr().out
    assert main(["keys", "stop_at"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ") and line[2] != " "] == ["  stop_at"]
    assert main(["keys"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    places = [
        shown.index(f"\n{head}\n")
        for head in ("keys: model and adapter", "keys: data", "keys: unlearning", "keys: of transformers and TRL")
    ]
    assert places == sorted(places)
    assert places[2] < shown.index("\n  stop_at\n") < places[3] < shown.index("\n  activation_checkpointing_kwargs")
    assert "activation_checkpointing_kwargs" in shown  # whole, though 80 columns are narrow
    assert "%%" not in shown
    refused(capsys, ["keys", "nosuch"], "nosuch: no key and no part has that in its name")


def test_a_shell_can_complete_commands_and_options(capsys):
    assert main(["--print-completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).returncode == 0
    assert {"ask", "audit", "--never-seen", "openunlearning"} <= set(re.findall(r"[\w-]+", script))


def test_interrupt_is_one_line(recipe, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(adapters, "load_base", interrupted)
    assert main(["train", recipe()]) == 130
    assert capsys.readouterr().err.endswith("peft-unlearn: interrupted\n")


def test_bugs_keep_their_traceback(recipe, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(adapters, "load_base", broken)
    with pytest.raises(ZeroDivisionError):
        main(["train", recipe()])


@pytest.mark.long
def test_as_a_program_and_quickly_for_help(recipe, bed):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    program = [sys.executable, "-X", "importtime", "-m", "peft_unlearn"]
    shown = subprocess.run([*program, "--help"], capture_output=True, text=True, env=environment)
    assert shown.returncode == 0
    assert "| torch\n" not in shown.stderr
    shared = recipe(retain_dataset=str(bed / "forget.jsonl"))
    wrong = subprocess.run([sys.executable, "-m", "peft_unlearn", "train", shared], capture_output=True, text=True, env=environment)
    assert wrong.returncode == 2
    *before, said = wrong.stderr.splitlines()
    assert said.startswith("peft-unlearn: error: forget_dataset: row 1 also stands in retain_dataset")
    assert [line.partition(":")[0] for line in before] == ["Loading torch and transformers …", "forget_dataset", "retain_dataset"]


def test_the_command_line_tells_its_version_and_what_a_mistyped_command_may_have_meant(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"peft-unlearn {__version__}\n"
    for typed, meant in (("trian", "Did you mean train?"), ("evalaute", "Did you mean evaluate?"), ("xyz", "")):
        assert main([typed]) == 2
        said = capsys.readouterr().err
        assert ("Did you mean" in said) is bool(meant)
        assert meant in said
