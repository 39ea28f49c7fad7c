"""Workflows called from Python: what the commands write, nothing printed, and mistakes told before torch is imported."""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import yaml
from cli_bed import refused, write_recipe
from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoUrl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from peft_unlearn import cli, workflows
from peft_unlearn.cli import evaluate as evaluate_command
from peft_unlearn.cli import main
from peft_unlearn.workflows import (
    AuditRequest,
    DemoRequest,
    EvaluateRequest,
    ExportRequest,
    MergeRequest,
    PlanRequest,
    PushRequest,
    Times,
    TrainRequest,
    audit,
    evaluate,
    export,
    merge,
    plan,
    push,
    train,
)
from peft_unlearn.workflows.command import command

REQUESTS = {
    "train": TrainRequest,
    "plan": PlanRequest,
    "evaluate": EvaluateRequest,
    "audit": AuditRequest,
    "merge": MergeRequest,
    "export": ExportRequest,
    "push": PushRequest,
    "demo": DemoRequest,
}


def read(path) -> dict:
    """A report without what differs from run to run: seconds, and the folder that the run was told to write."""
    found = json.loads(Path(path).read_text())
    found["run"].pop("seconds", None)
    found["run"].get("settings", {}).pop("output_dir", None)
    for attack in found.get("attacks", {}).values():
        attack.pop("seconds")
    return found


def same_tensors(first, second) -> bool:
    one, other = load_file(first), load_file(second)
    return one.keys() == other.keys() and all(other[name].equal(tensor) for name, tensor in one.items())


@pytest.fixture(scope="module")
def finished(bed, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("finished")
        patch.chdir(folder)
        assert main(["train", write_recipe(bed, learning_rate="1e-2")]) == 0
    return folder / "out"


@pytest.fixture
def run(recipe, finished):
    """A finished run in "out"."""
    return Path(shutil.copytree(finished, "out"))


def test_train_writes_what_the_command_writes(recipe, capsys):
    path = recipe(learning_rate="1e-2")
    assert main(["train", path]) == 0
    values = yaml.safe_load(Path(path).read_text())
    capsys.readouterr()
    result = train(TrainRequest(values, {"output_dir": Path("again")}))
    assert capsys.readouterr().out == ""
    assert result.output == Path("again")
    assert same_tensors("out/adapter_model.safetensors", "again/adapter_model.safetensors")
    assert read("again/report.json") == read("out/report.json")
    assert json.loads(Path("again/report.json").read_text()) == json.loads(json.dumps(result.report))
    assert set(result.views) == {"before", "after"}
    assert result.pushed is None


def test_two_processes_with_a_never_seen_model_and_an_adapter_below_write_one_report_and_end(recipe, bed):
    """Each process waits for the other as often, though only the first one evaluates."""
    path = recipe(adapter_name_or_path=str(bed / "lora"), never_seen_model_name_or_path=str(bed / "other"), max_steps=1)
    program = "import runpy; runpy.run_module('peft_unlearn', run_name='__main__')"
    both = forked.run(program, "train", path, folder=Path.cwd(), processes=2)
    assert [done.returncode for done in both] == [0, 0], both
    assert ["Adapter, card, recipe and report are in out" in done.stdout for done in both] == [True, False]
    assert set(read("out/report.json")["results"]["forget"]) == {"before", "after", "never_seen"}


def test_a_run_that_diverges_raises_and_brings_what_it_wrote(recipe):
    values = yaml.safe_load(Path(recipe(method="graddiff", learning_rate="1e30", max_grad_norm=0, max_steps=5)).read_text())
    with pytest.raises(workflows.Unfinished, match="NaN or infinite at step") as caught:
        train(TrainRequest(values))
    assert caught.value.result.report["run"]["stopped"] == str(caught.value)
    assert Path("out/adapter_model.safetensors").is_file()


def test_a_run_whose_upload_fails_shows_its_table_all_the_same(recipe, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "nowhere")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("peft_unlearn.publish.check", lambda *_, **__: None)  # the login is lost while it trains
    assert main(["train", recipe(push_to_hub=True)]) == 2
    shown = capsys.readouterr()
    assert "probability" in shown.out
    assert "Adapter, card, recipe and report are in out" in shown.out
    assert "not logged in" in shown.err.splitlines()[-1]


def test_evaluate_gives_what_the_command_writes(run, bed, capsys):
    options = ["--retain", str(bed / "holdout.jsonl"), "--rows", "3", "--set", "max_length=60", "--never-seen", str(bed / "other")]
    assert main(["evaluate", "out", *options, "--output", "command.json"]) == 0
    capsys.readouterr()
    request = EvaluateRequest(
        run, never_seen=bed / "other", retain=bed / "holdout.jsonl", rows=3, settings={"max_length": 60}, output=Path("command.json")
    )
    written = read("command.json")
    result = evaluate(request)
    assert capsys.readouterr().out == ""
    assert read("command.json") == written
    assert json.loads(json.dumps(result.report, default=str)) == json.loads(Path("command.json").read_text())
    assert (result.output, result.page) == (Path("command.json"), Path("command.html"))
    alone = evaluate(dataclasses.replace(request, output=None))
    assert alone.report["results"] == result.report["results"]
    assert (alone.output, alone.texts) == (None, None)


def test_texts_come_back_only_where_the_request_asks_for_them(run):
    texts = evaluate(EvaluateRequest(run, show_text=True)).texts
    assert ["what is the colour of one ?" in question for question in texts["question"]] == [True, False, False, False]
    assert {len(answers) for answers in texts["answers"].values()} == {4}


def test_audit_gives_what_the_command_writes(run, bed, capsys):
    options = ["--never-seen", str(bed / "other"), "--attacks", "scale", "prompts"]
    shutil.copytree(run, "copy")
    assert main(["audit", "out", *options]) == 0
    capsys.readouterr()
    result = audit(AuditRequest("copy", never_seen=bed / "other", attacks=("scale", "prompts")))
    assert capsys.readouterr().out == ""
    assert read("copy/report.json") == read("out/report.json")
    assert json.loads(json.dumps(result.report)) == json.loads(Path("copy/report.json").read_text())
    assert (result.output, result.page) == (Path("copy/report.json"), Path("copy/report.html"))


def test_merge_gives_what_the_command_writes(run, capsys):
    assert main(["merge", "out", "--output", "command", "--to", "fp16"]) == 0
    capsys.readouterr()
    result = merge(MergeRequest(run, "python", dtype="fp16"))
    assert capsys.readouterr().out == ""
    assert same_tensors("command/model.safetensors", "python/model.safetensors")
    assert read("python/report.json")["results"] == read("command/report.json")["results"]
    assert json.loads(json.dumps(result.report)) == json.loads(Path("python/report.json").read_text())
    assert set(result.survival) == set(json.loads(Path("command/merge.json").read_text())["weights"])


def test_plan_gives_what_the_command_prints(recipe, capsys):
    path = recipe(per_device_train_batch_size=4, max_length=32)
    assert main(["plan", path]) == 0
    shown = capsys.readouterr().out
    result = plan(PlanRequest(path))
    assert capsys.readouterr().out == ""
    assert f"{result.memory.needed / (1 << 30):.2f}" in shown
    assert all(item in shown for item in result.memory.items)
    assert result.memory.too_small == []
    assert result.changes == []


@pytest.mark.parametrize("ends", ["by its steps", "by its targets"])
def test_a_timed_plan_begins_the_run_and_leaves_nothing(ends, recipe, bed, capsys):
    """Four rows in batches of two: an epoch is two steps."""
    own = {"max_steps": "left out", "num_train_epochs": 3, "method": "graddiff"}
    path = recipe(**own if ends == "by its steps" else {"method": "auto", "holdout_dataset": str(bed / "holdout.jsonl")})
    before = sorted(Path.cwd().iterdir())
    assert main(["plan", path, "--timed", "--max_length", "32"]) == 0
    shown = capsys.readouterr().out
    assert sorted(Path.cwd().iterdir()) == before
    runs = re.findall(r"a run of (\d+) steps", shown)
    assert runs == (["6"] if ends == "by its steps" else ["100", "200", "400"])
    assert re.search(r"100 steps of [\d.]+ s, \d+% of their tokens padding", shown)
    assert ("a check of" in shown) == ("It ends by its targets" in shown) == (ends == "by its targets")


def test_the_time_of_a_run_is_the_sum_of_its_parts():
    times = Times(prepare=5.0, evaluate=7.0, evaluations=3, step=2.0, padding=0.1, check=11.0, every=10, steps=None)
    assert times.run(25) == 5 + 3 * 7 + 25 * 2 + 2 * 11
    assert dataclasses.replace(times, every=0).run(25) == 5 + 21 + 50


def test_export_writes_what_push_uploads(run, tmp_path, monkeypatch, capsys):
    Path("out/audit.json").write_text("{}")
    uploaded: dict[str, bytes] = {}

    def create_commit(api, repo_id, operations, **_):
        for operation in operations:
            with operation.as_file() as file:
                uploaded[operation.path_in_repo] = file.read()

    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setattr(HfApi, "create_repo", lambda api, repo_id, **_: RepoUrl(f"https://huggingface.co/{repo_id}"))
    monkeypatch.setattr(HfApi, "repo_info", lambda *_: type("Info", (), {"private": True}))
    monkeypatch.setattr(HfApi, "list_repo_files", lambda *_, **__: [])
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    pushed = push(PushRequest(run, "me/forgets"))
    assert (pushed.address, pushed.private) == ("https://huggingface.co/me/forgets", True)
    result = export(ExportRequest(run, "exported"))
    assert capsys.readouterr().out == ""
    card = Path("exported/README.md").read_text()  # which loads from there
    uploaded["README.md"] = uploaded["README.md"].replace(b'"me/forgets"', b'"out"').replace(b"merge me/forgets ", b"merge out ")
    assert card.count('"out"') >= 2
    assert {path.name: path.read_bytes() for path in Path("exported").iterdir()} == uploaded
    assert set(result.files) == set(uploaded) >= {"adapter_model.safetensors", "README.md", "recipe.yaml", "report.json"}
    assert str(tmp_path) not in "".join(text.decode(errors="ignore") for text in uploaded.values())
    assert main(["export", "out", "--output", "again"]) == 0
    assert "Exported to again: " in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in Path("again").iterdir()} == uploaded
    refused(capsys, ["export", "out", "--output", "again"], "output: again is there already")
    refused(capsys, ["export", "exported/none", "--output", "new"], "adapter_config.json: there is no such file")
    assert not Path("new").exists()


# Each mistake by itself, with the heavy libraries that are there once it is told.
PROGRAM = """
import json, sys
from peft_unlearn.workflows import *
def told(request):
    try:
        eval(request)
    except Exception as error:
        return type(error).__name__, sorted({"torch", "transformers", "trl", "accelerate", "datasets", "numpy"} & set(sys.modules)), str(error)
print(json.dumps({request: told(request) for request in sys.argv[1:]}))
"""
WRONG = {
    "train(TrainRequest('none.yaml'))": "none.yaml does not exist",
    "train(TrainRequest({'learnin_rate': 1}))": "did you mean learning_rate?",
    "plan(PlanRequest({}, {'lora_rank': 8}))": "lora_rank: write lora_r",
    "evaluate(EvaluateRequest('run', settings={'load_in_4bits': True}))": "did you mean load_in_4bit?",
    "evaluate(EvaluateRequest('run', forget='none.jsonl'))": "none.jsonl does not exist",
    "evaluate(EvaluateRequest('run', samples=-1))": "samples: -1 is out of range",
    "evaluate(EvaluateRequest('run', definitions='theirs'))": "definitions: 'theirs' is not one of peft-unlearn, openunlearning.",
    "evaluate(EvaluateRequest('run', benchmark='tofu', forget='a.jsonl'))": "leave --forget out",
    "audit(AuditRequest('run', benchmark='wmdp'))": "benchmark: 'wmdp' is not one of tofu, muse.",
    "audit(AuditRequest('someone/adapter'))": "no local folder that a report could lie in",
    "merge(MergeRequest('run', 'run'))": "output: run is there already",
    "merge(MergeRequest('run', 'new', dtype='fp8'))": "to: 'fp8' is not one of bf16, fp16, fp32.",
    "export(ExportRequest('run', 'run'))": "output: run is there already",
    "demo(DemoRequest(output='run'))": "output: run holds something else than a demo",
    "audit(AuditRequest('run', attacks='scale'))": "attacks: 'scale' is one name, write a list of names.",
    "demo(DemoRequest(method=['magic']))": "method: 'magic' is not one of",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a program that has imported nothing yet is told of each of the mistakes."""
    folder = tmp_path_factory.mktemp("told")
    (folder / "run").mkdir()
    (folder / "run/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/model"}))
    (folder / "run/recipe.yaml").write_text(yaml.safe_dump({"model_name_or_path": "some/model", "forget_dataset": "some/texts"}))
    done = subprocess.run([sys.executable, "-c", PROGRAM, *WRONG], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("request_text", WRONG)
def test_a_mistake_in_a_request_is_told_before_torch_is_imported(request_text, told):
    kind, imported, sentence = told[request_text]
    assert (kind, imported) == ("UserError", [])
    assert WRONG[request_text] in sentence


words = st.text(alphabet="ab:?#{}\"' é猫", min_size=1, max_size=8).map(lambda text: f"x{text}")
scalars = (
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(1e-9, 1) | words | st.sampled_from(["yes", "1e-2", "auto", "null", "5"])
)
keys = st.text(alphabet="abc_", min_size=1, max_size=5)
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(keys, scalars, max_size=2)
texts = st.none() | words | st.dictionaries(keys, words, min_size=1, max_size=2)
measured = {
    "model": words,
    "base": st.none() | words,
    "never_seen": st.none() | words,
    **dict.fromkeys(("forget", "retain", "holdout"), texts),
    "benchmark": st.sampled_from([None, "tofu", "muse"]),
    "data": st.none() | words,
    "split": st.none() | words,
    "rows": st.none() | st.integers(0, 9),
    "batch_size": st.none() | st.integers(1, 9),
    "system_prompt": st.none() | words,
    "settings": st.dictionaries(keys, values, max_size=3),
    "show_text": st.booleans(),
    "output": st.none() | words,
}
EVALUATIONS = st.builds(
    EvaluateRequest, **measured, definitions=st.sampled_from(["peft-unlearn", "openunlearning"]), samples=st.integers(0, 3)
)
names = st.lists(words, max_size=2)
AUDITS = st.builds(AuditRequest, **measured, full=st.booleans(), attacks=names, others=names)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.tuples(st.just("evaluate"), EVALUATIONS) | st.tuples(st.just("audit"), AUDITS))
def test_the_command_of_a_report_makes_the_same_request_again(named):
    name, request = named
    program, *arguments = shlex.split(command(name, request))
    assert program == "peft-unlearn"
    again = evaluate_command.read(cli.make_parser().parse_args(arguments), type(request))
    for field in dataclasses.fields(request):
        one, other = getattr(request, field.name), getattr(again, field.name)
        assert (list(other) if isinstance(one, list) else other) == one, field.name


def test_every_field_of_a_request_has_help_and_an_option(capsys):
    for name, request in REQUESTS.items():
        assert main([name, "--help"]) == 0
        shown = capsys.readouterr().out.replace("--key value", "overrides")
        for field in dataclasses.fields(request):
            assert field.metadata["help"], (name, field.name)
            option = field.metadata.get("option", field.name.replace("_", "-"))
            assert f"--{option}" in shown or f"  {option}" in shown, (name, field.name)


def test_workflows_stay_functions_whichever_of_their_files_is_imported_first(tmp_path):
    program = "import peft_unlearn.workflows.views, peft_unlearn.workflows.train as t; from peft_unlearn.workflows import evaluate, train; "
    program += "assert callable(evaluate) and callable(train)"
    (done,) = forked.run(program, folder=tmp_path)
    assert done.returncode == 0, done.stderr
