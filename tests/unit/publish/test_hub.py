"""The model card, and what is uploaded."""

import ast
import html
import json
import logging
import re
import shlex
from pathlib import Path

import httpx2
import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.hf_api import RepoUrl
from markdown_it import MarkdownIt
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig
from verdicts import FORGETTING, criterion, every_state, judged

from peft_unlearn import report
from peft_unlearn.config import methods
from peft_unlearn.publish.hub import check, publishable, push
from peft_unlearn.publish.model_card import write_card
from peft_unlearn.report import page
from peft_unlearn.report.summary import MEANING
from peft_unlearn.report.text import criterion_limit, criterion_number, criterion_state
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.redaction import is_local, public_name

REPORT = {
    "schema": 4,
    "definitions": "peft-unlearn",
    "run": {"model": "/home/someone/models/tiny"},
    "never_seen": {"kind": "retrained", "name": "/home/someone/models/twin"},
    "results": {
        "forget": {
            "before": {"extraction_strength": {"mean": 0.98765, "n": 7, "rows": [], "interval": [0.95, 1.0]}},
            "after": {
                "extraction_strength": {"mean": 0.01234, "n": 7, "rows": [], "interval": [0.0, 0.123]},
                "rouge_l": {"mean": None, "n": 7, "rows": [], "interval": None},
            },
        },
        "retain": {"after": {"extraction_strength": {"mean": 0.9, "n": 9, "rows": [], "interval": None}}},
    },
    "differences": {},
    "groups": {},
    "verdict": judged("SUPPRESSED", [criterion("worst_of_k"), criterion("rouge_l", "passed")])["verdict"],
    "curve": [],
}


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


def card(tmp_path: Path, **changes) -> ModelCard:
    arguments = {"base": "org/base-1b", "method": "ngdiff", "settings": {"learning_rate": 1e-3}, "quantization": "NF4", "report": REPORT}
    return ModelCard.load(write_card(tmp_path, **(arguments | changes)))


def test_card_metadata_reads_back(tmp_path: Path) -> None:
    data = card(tmp_path).data
    assert (data.base_model, data.library_name, data.pipeline_tag) == ("org/base-1b", "peft", "text-generation")
    assert set(data.tags) == {"unlearning", "lora", "peft-unlearn", "ngdiff"}
    assert {(r.dataset_name, r.metric_type, r.metric_value) for r in data.eval_results} == {
        ("forget set", "extraction_strength", 0.01234),
        ("retain set", "extraction_strength", 0.9),
    }


def test_card_shows_numbers_settings_and_warnings(tmp_path: Path) -> None:
    text = card(tmp_path, settings={"learning_rate": 1e-3, "seed": None, "forget_loss_args": {"tol": 0.02}}).text
    assert "| forget | extraction strength | 0.988 [0.950, 1.00] | 0.0123 [0.000, 0.123] | 7 |" in text
    assert "| forget | rouge l | - | - | 7 |" in text
    assert "| retain | extraction strength | - | 0.900 | 9 |" in text
    assert "| `learning_rate` | 0.001 |" in text
    assert '| `forget_loss_args` | {"tol": 0.02} |' in text
    assert "seed" not in text
    assert "NF4" in text
    assert "arxiv.org/abs/2410.22086" in text
    assert f"peft-unlearn merge {tmp_path.name}" in text
    assert "reversed guidance" in text
    assert "private" in text


@pytest.mark.parametrize("word", FORGETTING)
def test_card_says_word_training_and_grounds_first_then_what_failed_and_what_to_do(tmp_path: Path, word) -> None:
    found = every_state()
    said = judged(word, found, training=["The run did not reach its target."], next=["More steps."], worst_rows=[1])
    text = card(tmp_path, report=said).text
    first = next(block for block in text.split("\n\n")[1:] if block)
    shown = [word or "NO VERDICT", MEANING[word], "did not reach its target", "3 rows of the forget set", "compared with the twin"]
    places = [first.index(part) for part in shown]
    assert places == sorted(places)
    failed = [one["text"] for one in found if one["state"] == "failed"]
    assert all(f"\n- {one[:1].upper()}{one[1:]}\n" in text for one in failed)
    assert text.index(failed[0][1:]) < text.index("\n- More steps.") < text.index("| question |")
    for one in found:
        row = f"| {one['question']} | {criterion_state(one)} | {criterion_number(one)} | {criterion_limit(one)} |"
        assert (row in text) == (not one["name"].startswith("attack_"))


def test_card_says_why_there_is_no_word(tmp_path: Path) -> None:
    text = card(tmp_path, report=judged(None, [], reasons=["There was nothing to forget."])).text
    first = text.split("\n\n")[1]
    assert "**NO VERDICT**" in first
    assert "There was nothing to forget." in first


def test_card_shows_no_path_and_no_markup_of_a_sentence(tmp_path: Path) -> None:
    hostile = "it stopped, see /home/someone/log.txt <script>x</script>\n# Title | cell"
    made = judged(criteria=[criterion(text=hostile, question=hostile)], training=[hostile], next=[hostile])
    text = card(tmp_path, report=made).text
    assert "someone" not in text
    assert "<script>" not in text
    assert "\n# Title" not in text
    assert text.count("log.txt &lt;script&gt;x&lt;/script&gt; # Title") == 4
    assert "Title \\| cell |" in text


def test_card_shows_what_an_audit_tried(tmp_path: Path) -> None:
    attacks = {
        "prompts": {"title": "Other prompts", "passed": True, "reason": None},
        "scale": {"title": "Another | strength", "passed": False, "reason": None},
        "composition": {"title": "Several adapters", "passed": None, "reason": "no further adapters were named"},
    }
    text = card(tmp_path, report={**REPORT, "attacks": attacks}).text
    assert "| prompts | Other prompts | passed |" in text
    assert "| scale | Another \\| strength | failed |" in text
    assert "| composition | Several adapters | – (no further adapters were named) |" in text
    assert "what was tried" not in card(tmp_path).text


def test_card_of_a_method_without_a_paper_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS._all, "plain", methods.Method("nothing that was published", {}))
    text = card(tmp_path, method="plain").text
    assert "| method | `plain`: nothing that was published |" in text


def test_card_says_the_verdict_and_what_never_seen_is(tmp_path: Path) -> None:
    written = card(tmp_path)
    assert "**SUPPRESSED**: " in written.text
    assert "\n- Worst_of_k is failed (at most 15%).\n" in written.text
    assert "a model trained without the forget set" in written.text
    assert "someone" not in written.content
    expected = {"verdict": "SUPPRESSED", "never_seen": "retrained", "definitions": "peft-unlearn"}
    assert written.data.to_dict()["unlearning"] == expected


def test_card_of_a_local_base_shows_its_last_component_alone(tmp_path: Path) -> None:
    written = card(
        tmp_path, base="/home/someone/models/tiny", settings={"forget": {"path": "/home/someone/forget.jsonl"}}, below="/home/someone/mine"
    )
    assert "someone" not in written.content
    assert "`tiny`" in written.text
    assert "forget.jsonl" in written.text
    assert written.data.base_model is None


def test_card_of_an_adapter_on_another_loads_both(tmp_path: Path) -> None:
    text = card(tmp_path, below="org/finetune").text
    assert 'from_pretrained(base, "org/finetune", adapter_name="finetune")' in text
    assert "--below org/finetune" in text
    for block in text.split("```python")[1:]:
        compile(block.split("```")[0], "card", "exec")


def test_card_of_an_adapter_on_a_merged_one_merges_that_first(tmp_path: Path) -> None:
    write_card(tmp_path, base="some/base", method="mollm", settings={}, below="me/finetune", below_merged=True)
    text = (tmp_path / "README.md").read_text()
    assert 'base = PeftModel.from_pretrained(base, "me/finetune").merge_and_unload()' in text
    assert "set_adapter" not in text
    assert "--below me/finetune" in text


def test_a_card_shows_hostile_names_as_they_stand(tmp_path: Path) -> None:
    """Its Markdown holds no element of a name's, its code is code, and its command names one folder."""
    name, base, below = """a "b" <img src=x> 'c' | d""", "org/<script>x", 'me/"fine" <b>'
    (tmp_path / name).mkdir()
    report = {**REPORT, "results": {**REPORT["results"], "<i>|mine": REPORT["results"]["retain"]}}
    text = card(tmp_path / name, base=base, below=below, settings={"chat": "<u>|"}, report=report).text
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert set(re.findall(r"<(\w+)", page)) <= {
        "h1",
        "h2",
        "p",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "code",
        "a",
        "ul",
        "li",
        "pre",
        "em",
        "strong",
    }
    assert all(html.escape(shown, quote=False).replace('"', "&quot;") in page for shown in (name, "<i>|mine", "<u>|", base))
    loaded = next(block for block in re.findall(r"```python\n(.+?)```", text, re.DOTALL))
    strings = [node.value for node in ast.walk(ast.parse(loaded)) if isinstance(node, ast.Constant)]
    assert {name, base, below} <= set(strings)
    command = next(line for line in text.splitlines() if line.startswith("    peft-unlearn merge"))
    assert shlex.split(command) == ["peft-unlearn", "merge", name, "--output", "merged", "--below", below]


def test_card_of_a_stopped_run_says_so(tmp_path: Path) -> None:
    said = judged("COLLAPSED", training=["The run stopped early: the loss turned NaN."])["verdict"]
    stopped = {**REPORT, "run": {"stopped": "the loss turned NaN."}, "verdict": said}
    write_card(tmp_path, base="some/base", method="mollm", settings={}, report=stopped)
    assert "The run stopped early: the loss turned NaN. This is the last good adapter." in (tmp_path / "README.md").read_text()
    write_card(tmp_path, base="some/base", method="mollm", settings={}, report=REPORT)
    assert "stopped early" not in (tmp_path / "README.md").read_text()


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
