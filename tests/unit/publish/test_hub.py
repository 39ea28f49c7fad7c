"""What is uploaded."""

import json
import logging
from pathlib import Path

import httpx2
import pytest
import torch
import yaml
from card_report import REPORT
from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoUrl
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from peft_unlearn import report
from peft_unlearn.publish.hub import check, publishable, push
from peft_unlearn.publish.model_card import write_card
from peft_unlearn.report import page
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.redaction import is_local, public_name


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A saved adapter of a local base, with everything that a run leaves beside it."""
    config = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "bases" / "tiny")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "bases" / "tiny")
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    folder = tmp_path / "run"
    model.save_pretrained(folder)
    write_card(folder, base=str(tmp_path / "bases" / "tiny"), method="mean_teacher", settings={"data": str(tmp_path / "forget.jsonl")})
    recipe = {
        "model_name_or_path": str(tmp_path / "bases" / "tiny"),
        "forget_dataset": {"path": "json", "data_files": [str(tmp_path / "forget.jsonl")]},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "report.json").write_text(json.dumps(REPORT))
    (folder / "report.html").write_text(f"<p>{tmp_path}/bases/tiny and /home/someone/models/tiny</p>")
    (folder / "tokenizer.json").write_text("{}")
    for private in [
        "checkpoint-10/adapter_model.safetensors",
        "teacher/adapter_model.safetensors",
        "optimizer.pt",
        "forget.jsonl",
        "trainer_state.json",
    ]:
        (folder / private).parent.mkdir(exist_ok=True)
        (folder / private).write_text("secret")
    return folder


class Hub:
    """Stands for the Hub: the methods that `push` calls, and what they were given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.private, self.branches, self.commits = None, [], []
        hub = self

        def create_repo(api, repo_id, *, private, exist_ok):
            hub.private = private if hub.private is None else hub.private
            return RepoUrl(f"https://huggingface.co/{repo_id}")

        def repo_info(api, repo_id):
            return type("Info", (), {"private": hub.private})

        def create_branch(api, repo_id, *, branch, exist_ok):
            hub.branches.append(branch)

        def create_commit(api, repo_id, operations, *, commit_message, revision):
            hub.commits.append((revision, {o.path_in_repo: o for o in operations}))

        for method in (create_repo, repo_info, create_branch, create_commit):
            monkeypatch.setattr(HfApi, method.__name__, method)


def content(operation) -> bytes:
    with operation.as_file() as file:
        return file.read()


def test_only_publishable_files_are_uploaded(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    assert push(adapter, "me/forgets", token="hf_x") == "https://huggingface.co/me/forgets"
    [(revision, files)] = hub.commits
    assert set(files) == {
        *("adapter_config.json", "adapter_model.safetensors", "README.md"),
        *("recipe.yaml", "report.json", "report.html", "tokenizer.json"),
    }
    assert hub.private is True
    assert revision is None
    assert hub.branches == []


def test_uploaded_adapter_loads_by_peft(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    push(adapter, "me/forgets", token="hf_x")
    (tmp_path / "downloaded").mkdir()
    for name, operation in hub.commits[0][1].items():
        (tmp_path / "downloaded" / name).write_bytes(content(operation))
    states = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "bases" / "tiny"), folder).state_dict()
        for folder in (adapter, tmp_path / "downloaded")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_no_local_path_is_uploaded_and_each_is_told(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub(monkeypatch)
    with caplog.at_level(logging.WARNING, logger="peft_unlearn"):
        push(adapter, "me/forgets", token="hf_x")
    files = {name: content(operation) for name, operation in hub.commits[0][1].items()}
    for name, data in files.items():
        assert str(tmp_path).encode() not in data, name
        assert b"/home/someone" not in data, name
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "tiny"
    assert yaml.safe_load(files["recipe.yaml"])["forget_dataset"] == {"path": "json", "data_files": ["forget.jsonl"]}
    assert files["report.html"] == b"<p>tiny and tiny</p>"
    assert json.loads(files["report.json"])["results"] == REPORT["results"]
    assert str(tmp_path / "bases" / "tiny") in caplog.text
    assert str(tmp_path / "forget.jsonl") in caplog.text
    assert str(tmp_path) in (adapter / "adapter_config.json").read_text()  # the folder itself stays usable


def test_branch_is_made_and_committed_to(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    push(adapter, "me/forgets", token="hf_x", revision="r2")
    assert hub.branches == ["r2"]
    assert hub.commits[0][0] == "r2"


def test_public_repository_is_refused_unless_asked_for(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    hub.private = False
    with pytest.raises(UserError, match="is public"):
        push(adapter, "me/forgets", token="hf_x")
    assert hub.commits == []
    push(adapter, "me/forgets", token="hf_x", private=False)
    assert len(hub.commits) == 1


def test_what_the_user_can_mend_is_said(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        push(tmp_path / "bases", "me/forgets", token="hf_x")
    monkeypatch.setattr("peft_unlearn.publish.hub.get_token", lambda: None)
    with pytest.raises(UserError, match="hf auth login"):
        push(adapter, "me/forgets")
    with pytest.raises(UserError, match="Repo id"):
        push(adapter, "me/for gets", token="hf_x")

    def unreachable(*_, **__):
        raise httpx2.ConnectError("no route to host")

    monkeypatch.setattr(HfApi, "create_repo", unreachable)
    with pytest.raises(UserError, match="no route to host"):
        push(adapter, "me/forgets", token="hf_x")


@pytest.mark.parametrize(
    ("repo", "me", "message"),
    [
        ("me/forgets", {"name": "me"}, None),
        ("forgets", {"name": "me"}, None),
        ("ours/forgets", {"name": "me", "orgs": [{"name": "ours"}]}, None),
        ("theirs/forgets", {"name": "me", "orgs": [{"name": "ours"}]}, "^hub_model_id: .*write a name under me or ours"),
        ("me/forgets", {"name": "me", "auth": {"accessToken": {"role": "read"}}}, "^push_to_hub: .*may only read"),
        ("me/for gets", {"name": "me"}, "^push_to_hub: .*Repo id"),
    ],
)
def test_whether_an_upload_could_be_is_known_before_there_is_anything_to_upload(repo, me, message, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HfApi, "whoami", lambda api: me)
    if message is None:
        check(repo, token="hf_x")
    else:
        with pytest.raises(UserError, match=message):
            check(repo, token="hf_x")


def test_teacher_at_the_root_of_a_checkpoint_never_travels(adapter: Path) -> None:
    assert not [o.path_in_repo for o in publishable(adapter) if "/" in o.path_in_repo or "optim" in o.path_in_repo]


def test_card_takes_the_place_of_pefts_own(adapter: Path) -> None:
    text = (adapter / "README.md").read_text()
    assert "Model Card for Model ID" not in text
    assert "peft-unlearn merge" in text
    assert "not evaluated" in text


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("/home/x/model/", "model"),
        ("~/model", "model"),
        ("./runs/model", "model"),
        ("C:\\models\\tiny", "tiny"),
        ("org/model", "org/model"),
        ("all-linear", "all-linear"),
        ("/", "/"),
    ],
)
def test_paths_are_told_from_hub_names(value: str, name: str) -> None:
    assert public_name(value) == name
    assert is_local(value) == (value != name)


def test_a_page_that_shows_the_forget_set_is_not_uploaded(adapter, caplog):
    made = report.build({"forget": {"after": {}}}, run={})
    page.write(made, adapter / "report.html")
    assert "report.html" in {operation.path_in_repo for operation in publishable(adapter)}
    page.write(made, adapter / "report.html", texts={"question": ["Who?"], "answers": {"before": ["Ada."], "after": ["Nobody."]}})
    assert "report.html" not in {operation.path_in_repo for operation in publishable(adapter)}
    assert "report.html shows texts" in caplog.text
