"""What is uploaded."""

import ast
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from card_report import REPORT
from huggingface_hub import HfApi, ModelCard, constants, snapshot_download
from local_hub import Hub, Repo
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from peft_unlearn import report
from peft_unlearn.publish.files import publishable
from peft_unlearn.publish.hub import check, push
from peft_unlearn.publish.merged_card import write_merged_card
from peft_unlearn.publish.model_card import write_card
from peft_unlearn.report import page
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.redaction import is_local, public_name


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A small base and an adapter of it, as PEFT saves one."""
    folder = tmp_path_factory.mktemp("saved")
    config = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "bases" / "tiny")
    model = AutoModelForCausalLM.from_pretrained(folder / "bases" / "tiny")
    get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(folder / "run")
    return folder


@pytest.fixture
def adapter(saved: Path, tmp_path: Path) -> Path:
    """A saved adapter of a local base, with everything that a run leaves beside it."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "run"
    config = (folder / "adapter_config.json").read_text()
    (folder / "adapter_config.json").write_text(config.replace(str(saved), str(tmp_path)))
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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    """A server that speaks the Hub's API, in the Hub's place; nothing waits before it is asked again."""
    with Hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield server


def uploaded(hub: Hub, repo: str = "me/forgets", revision: str = "main") -> dict[str, bytes]:
    return {name: data for name, data in hub.repos[repo].branches[revision][-1].items() if name != ".gitattributes"}


@pytest.mark.parametrize("revision", [None, "r2"])
def test_an_upload_is_one_commit_of_the_publishable_files_and_comes_back_byte_for_byte(adapter, hub, tmp_path, revision) -> None:
    assert push(adapter, "me/forgets", token="hf_x", revision=revision) == f"{hub.endpoint}/me/forgets"
    files = uploaded(hub, revision=revision or "main")
    assert set(files) == {
        *("adapter_config.json", "adapter_model.safetensors", "README.md"),
        *("recipe.yaml", "report.json", "report.html", "tokenizer.json"),
    }
    repo = hub.repos["me/forgets"]
    assert repo.private
    assert [len(history) for history in repo.branches.values()] == ([2] if revision is None else [1, 2])
    downloaded = {"local_dir": tmp_path / "downloaded", "endpoint": hub.endpoint, "token": "hf_x"}
    there = Path(snapshot_download("me/forgets", revision=revision, **downloaded))
    assert {name: (there / name).read_bytes() for name in files} == files
    assert all(files[name] == (adapter / name).read_bytes() for name in ("adapter_model.safetensors", "tokenizer.json"))
    states = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "bases" / "tiny"), folder).state_dict()
        for folder in (adapter, there)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_a_card_passes_the_hubs_own_validation_and_its_numbers_read_back(adapter, hub) -> None:
    write_card(adapter, base="org/tiny", method="mean_teacher", settings={}, report=REPORT)
    push(adapter, "me/forgets", token="hf_x")
    assert "validate" in hub.seen  # create_commit asks it
    card = ModelCard(uploaded(hub)["README.md"].decode())
    card.validate()
    found = {(r.dataset_split, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert found == {
        ("forget", "extraction strength, before"): 0.98765,
        ("forget", "extraction strength, after"): 0.01234,
        ("retain", "extraction strength, after"): 0.9,
    }
    broken = (adapter / "README.md").read_text().replace("base_model_relation: adapter", "base_model_relation: friend")
    (adapter / "README.md").write_text(broken)
    with pytest.raises(UserError, match="could not be uploaded"):
        push(adapter, "me/forgets", token="hf_x")
    assert len(hub.repos["me/forgets"].branches["main"]) == 2


def test_a_local_base_goes_by_its_name_on_the_hub_and_the_cards_code_loads_from_there(adapter, hub, tmp_path) -> None:
    hub.repos["org/Tiny-1B"] = Repo(private=False)
    push(adapter, "me/forgets", token="hf_x", base="org/Tiny-1B")
    files = uploaded(hub)
    card = ModelCard(files["README.md"].decode())
    assert (card.data.base_model, card.data.base_model_relation) == ("org/Tiny-1B", "adapter")
    assert "makes [org/Tiny-1B](https://huggingface.co/org/Tiny-1B) forget" in card.text
    code = card.text.split("```python")[1].split("```")[0]
    strings = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert sorted(strings) == ["me/forgets", "org/Tiny-1B", "org/Tiny-1B"]
    assert "peft-unlearn merge me/forgets --output merged" in card.text
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "org/Tiny-1B"
    assert yaml.safe_load(files["recipe.yaml"])["model_name_or_path"] == "org/Tiny-1B"
    with pytest.raises(UserError, match="^base: 'org/none' is no model on the Hub"):
        push(adapter, "me/forgets", token="hf_x", base="org/none")


def test_a_merged_folder_goes_up_whole_and_takes_the_place_of_an_adapter(adapter, hub, tmp_path) -> None:
    push(adapter, "me/forgets", token="hf_x")
    merged = tmp_path / "bases" / "tiny"
    (merged / "merge.json").write_text(json.dumps({"base": "first", "adapter": "run"}))
    (merged / "notes.txt").write_text("secret")
    write_merged_card(merged, base="/home/someone/first", adapter=str(adapter), weights="bf16", kept=0.99)
    push(merged, "me/forgets", token="hf_x", base=None)
    files = uploaded(hub)
    assert set(files) == {"config.json", "generation_config.json", "model.safetensors", "merge.json", "README.md"}
    assert all(files[name] == (merged / name).read_bytes() for name in files if name != "README.md")
    assert b"someone" not in files["README.md"]
    assert b'AutoModelForCausalLM.from_pretrained("me/forgets"' in files["README.md"]
    assert ModelCard(files["README.md"].decode()).data.base_model_relation == "finetune"


def test_cut_weights_are_not_uploaded(adapter, hub) -> None:
    whole = (adapter / "adapter_model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(whole[:-8])
    with pytest.raises(UserError, match="truncated or damaged"):
        push(adapter, "me/forgets", token="hf_x")
    assert hub.repos == {}


SAYS = {401: "hf auth login", 403: "may not write", 429: "asks to go slower", 500: "at fault", "cut": "check the name, the connection"}
FAULTS = [
    *((route, fault) for route in ("create", "preupload", "batch", "upload", "commit") for fault in SAYS),
    *(("validate", 500), ("info", 500), ("branch", 403), ("commit", "lost")),
]
# Route, fault, and whether the repository was there already: where the upload needs no answer of that route, or it came too late.
NO_MATTER = {("create", 401, True), ("create", 403, True), ("info", 500, False), ("commit", "lost", True), ("commit", "lost", False)}


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(("route", "fault"), FAULTS)
def test_a_fault_leaves_nothing_or_a_complete_revision(adapter, hub, route, fault, there) -> None:
    if there:
        hub.repos["me/forgets"] = Repo(private=True)
        hub.repos["me/forgets"].branches["main"].append({"README.md": b"before"})
    hub.faults[route] = fault
    if (route, fault, there) in NO_MATTER:
        push(adapter, "me/forgets", token="hf_x", revision="r2")
        assert len(uploaded(hub, revision="r2")) == 7
    else:
        with pytest.raises(UserError, match=f"^repo_id: 'me/forgets' could not be uploaded to .*{SAYS[fault]}"):
            push(adapter, "me/forgets", token="hf_x", revision="r2")
        assert {name: set(repo.branches) for name, repo in hub.repos.items()} == ({"me/forgets": {"main"}} if there else {})
    if there:
        assert hub.repos["me/forgets"].branches["main"][-1] == {"README.md": b"before"}


def test_without_a_network_it_says_what_to_do(adapter, hub, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set; unset it, or write the files by `peft-unlearn export`"):
        push(adapter, "me/forgets", token="hf_x")
    assert hub.seen == []


def test_no_local_path_is_uploaded_and_each_is_told(adapter, hub, tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="peft_unlearn"):
        push(adapter, "me/forgets", token="hf_x")
    files = uploaded(hub)
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


def test_public_repository_is_refused_unless_asked_for(adapter, hub) -> None:
    hub.repos["me/forgets"] = Repo(private=False)
    with pytest.raises(UserError, match="is public"):
        push(adapter, "me/forgets", token="hf_x")
    assert uploaded(hub) == {}
    push(adapter, "me/forgets", token="hf_x", private=False)
    assert "README.md" in uploaded(hub)


def test_what_the_user_can_mend_is_said(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        push(tmp_path / "bases", "me/forgets", token="hf_x")
    monkeypatch.setattr("peft_unlearn.publish.hub.get_token", lambda: None)
    with pytest.raises(UserError, match="hf auth login"):
        push(adapter, "me/forgets")
    with pytest.raises(UserError, match="Repo id"):
        push(adapter, "me/for gets", token="hf_x")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    with pytest.raises(UserError, match="check the name, the connection"):
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
    assert not [o.path_in_repo for o in publishable(adapter)[1] if "/" in o.path_in_repo or "optim" in o.path_in_repo]


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
    assert "report.html" in {operation.path_in_repo for operation in publishable(adapter)[1]}
    page.write(made, adapter / "report.html", texts={"question": ["Who?"], "answers": {"before": ["Ada."], "after": ["Nobody."]}})
    assert "report.html" not in {operation.path_in_repo for operation in publishable(adapter)[1]}
    assert "report.html shows texts" in caplog.text
