"""`push` from a run's folder to a server that speaks the Hub's API, and from there back into PEFT by the card's own code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from local_hub import Hub, Repo

from peft_unlearn.cli import main

PUSH = "import sys; from peft_unlearn.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def run(bed, tmp_path_factory):
    """An adapter on a local base, made by one step."""
    out = tmp_path_factory.mktemp("run") / "forgotten"
    recipe = out.parent / "my.yaml"
    recipe.write_text(
        f"model_name_or_path: {bed / 'base'}\nforget_dataset: {bed / 'forget.jsonl'}\nretain_dataset: {bed / 'retain.jsonl'}\n"
    )
    assert main(["train", str(recipe), "--output_dir", str(out), "--max_steps", "1", "--use_cpu", "true", "--lora_r", "4"]) == 0
    return out


def elsewhere(hub: Hub, cache: Path, program: str, *arguments: str, says: str = "") -> subprocess.CompletedProcess:
    """A program of Python in a process that knows this Hub alone, and no file of this folder."""
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(cache), "HF_TOKEN": "hf_x", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    process = [sys.executable, "-c", program, *arguments]
    return subprocess.run(process, input=says, capture_output=True, text=True, env={**os.environ, **settings}, cwd=cache)


@pytest.mark.long
def test_a_pushed_adapter_loads_by_the_code_of_its_card(run, bed, tmp_path):
    with Hub() as hub:
        hub.repos["org/base"] = Repo(private=False)
        hub.repos["org/base"].branches["main"].append({path.name: path.read_bytes() for path in (bed / "base").iterdir()})
        done = elsewhere(hub, tmp_path, PUSH, "push", str(run), "me/forgets", "--base", "org/base")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"Uploaded to {hub.endpoint}/me/forgets (private)"
        files = hub.repos["me/forgets"].branches["main"][-1]
        assert {"tokenizer.json", "tokenizer_config.json", "adapter_model.safetensors", "report.json"} <= files.keys()
        card = files["README.md"].decode()
        assert ModelCard(card).data.base_model == "org/base"
        code = re.search(r"```python\n(.+?)```", card, re.DOTALL)[1]
        loaded = elsewhere(hub, tmp_path, code + "\nprint(type(model).__name__, model.peft_config['default'].r, len(tokenizer))")
        assert loaded.stdout.split() == ["PeftModelForCausalLM", "4", "24"], loaded.stderr[-2000:]
        hub.repos["org/base"].gated = True
        (tmp_path / "other").mkdir()
        gated = elsewhere(hub, tmp_path / "other", PUSH, "merge", "me/forgets", "--output", str(tmp_path / "merged"), "--no-evaluate")
        assert gated.returncode == 2
        assert "base: 'org/base' is no folder here and did not come from the Hub" in gated.stderr
        assert "ask for access on its page on the Hub" in gated.stderr


@pytest.fixture
def public(monkeypatch):
    """What is uploaded: nothing leaves this process."""
    from peft_unlearn import publish

    calls = []
    monkeypatch.setattr(publish, "push", lambda folder, repo, **how: calls.append(how["private"]) or "there")
    return calls


@pytest.mark.parametrize(("answer", "status"), [("yes", 0), ("", 2), ("no", 2)])
def test_public_is_asked_for_after_a_leak_check(run, public, monkeypatch, capsys, answer, status):
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or (answer if "public" in question else ""))
    assert main(["push", str(run), "me/forgets", "--public"]) == status
    assert [question.split()[0] for question in asked] == ["The", "Make"]  # the base's name, then whether
    said = capsys.readouterr().out
    assert "no text of the 4 rows of the forget set is in card, recipe or report" in said
    assert "never attacked" in said
    assert public == ([False] if status == 0 else [])


def test_nobody_to_ask_needs_a_yes_on_the_command_line(run, public, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert main(["push", str(run), "me/forgets", "--public"]) == 2
    assert "add --yes" in capsys.readouterr().err
    assert main(["push", str(run), "me/forgets", "--public", "--yes"]) == 0
    assert public == [False]


def test_a_card_with_a_forget_text_does_not_become_public(run, public, capsys):
    card = run / "README.md"
    before = card.read_text()
    try:
        card.write_text(before + "\nIt no longer answers: what is the colour of two?\n")
        assert main(["push", str(run), "me/forgets", "--public", "--yes"]) == 2
        assert "README.md: it holds text of row 1 of the forget set" in capsys.readouterr().err
        assert public == []
    finally:
        card.write_text(before)
