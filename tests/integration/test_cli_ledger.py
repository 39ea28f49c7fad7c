"""`ledger` on the command line: requests one after another, composed, revoked, scored and put on record, without a text of theirs."""

import contextlib
import json
import shutil
import stat
from pathlib import Path

import pytest
import torch
import yaml
from cli_bed import refused, write_recipe
from safetensors.torch import load_file
from test_cli_combine import logits
from transformers import AutoTokenizer

from peft_unlearn import workflows
from peft_unlearn.cli import main
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows import ledger_run

FORGET = {"one": ["red one", "green two"], "two": ["blue three"], "three": ["red four"]}


def write(name, answers):
    rows = [{"question": f"what is the colour of {answer.split()[1]} ?", "answer": answer} for answer in answers]
    Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def entries():
    return json.loads(Path("ledger/ledger.json").read_text())["entries"]


@pytest.fixture(scope="module")
def made(bed, tmp_path_factory):
    """A folder with two requests on top of the user's own LoRA."""
    folder = tmp_path_factory.mktemp("ledger")
    with contextlib.chdir(folder):
        for name, answers in FORGET.items():
            write(name, answers)
        own = {"adapter_name_or_path": str(bed / "lora"), "adapter_mode": "stack", "output_dir": "left out"}
        path = write_recipe(bed, **own, learning_rate="1e-1", forget_floor=0)
        for name in ("one", "two"):
            assert main(["ledger", "add", "ledger", name, path, "--forget_dataset", f"./{name}.jsonl"]) == 0
    return folder


@pytest.fixture
def ledger(made, tmp_path, monkeypatch):
    """The recipe of the requests, in a copy of that folder, where the commands run."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return "my.yaml"


def test_requests_are_composed_revoked_scored_and_on_record(ledger, bed, capsys):
    own, one, two = bed / "lora", "ledger/one", "ledger/two"
    assert main(["ledger", "compose", "ledger", "--output", "all"]) == 0
    stacked = logits(bed / "base", own, one, two)
    assert (logits(bed / "base", "all") - stacked).norm() <= 1e-5 * stacked.norm()

    capsys.readouterr()
    assert main(["ledger", "score", "ledger"]) == 0
    assert "Divergence" in capsys.readouterr().out
    scored = entries()[-1]
    assert set(scored["scores"]) == {"one", "two"}
    assert main(["evaluate", "all", "--forget", "one.jsonl", "--output", "one.json"]) == 0
    alone = json.loads(Path("one.json").read_text())["results"]["forget"]
    for view in ("before", "after", "never_seen"):
        assert scored["scores"]["one"][view]["probability"] == pytest.approx(alone[view]["probability"]["mean"], rel=1e-3)

    assert main(["ledger", "revoke", "ledger", "one"]) == 0
    assert main(["ledger", "compose", "ledger", "--output", "rest"]) == 0
    expected = logits(bed / "base", own, two)
    assert (logits(bed / "base", "rest") - expected).norm() <= 1e-5 * expected.norm()
    refused(capsys, ["ledger", "revoke", "ledger", "one"], "no request 'one' stands", "two")
    assert main(["ledger", "compose", "ledger", "--output", "small", "--rank", "3"]) == 0
    assert json.loads(Path("small/adapter_config.json").read_text())["r"] == 3

    refused(capsys, ["ledger", "add", "ledger", "one", ledger], "name", "'one' is taken")
    assert main(["ledger", "record", "ledger"]) == 0
    told = capsys.readouterr().out
    assert [entry["event"] for entry in entries()] == ["add", "add", "score", "revoke"]
    for words in ("one asked for", "two asked for", "one revoked", "all requests scored", *entries()[0]["rows"], entries()[1]["adapter"]):
        assert words in told
    for text in ("colour", "red one", "blue three", str(Path.cwd())):
        assert text not in told
        assert text not in Path("ledger/ledger.json").read_text() or text == str(Path.cwd())
    assert stat.S_IMODE(Path("ledger/ledger.key").stat().st_mode) == 0o600


def test_an_adapter_reads_nothing_of_what_the_one_before_reads(ledger):
    before, after = (load_file(f"ledger/{name}/adapter_model.safetensors") for name in ("one", "two"))
    names = [name for name in before if name.endswith("lora_A.weight") and before[name.replace("_A", "_B")].abs().sum() > 0]
    assert names
    for name in names:
        into, _ = torch.linalg.qr(before[name].T)
        assert (after[name] @ into).norm() <= 1e-5 * after[name].norm()
        assert after[name.replace("_A", "_B")].abs().sum() > 0


def test_a_request_is_told_against_the_own_lora_without_the_requests_before(ledger, bed):
    recipe = yaml.safe_load(Path("ledger/two/recipe.yaml").read_text())
    assert recipe["reference_adapter_name_or_path"] == str(bed / "lora")
    assert "*Before* is the same base with `lora` alone" in Path("ledger/two/README.md").read_text()
    assert (
        main(["evaluate", str(bed / "lora"), "--forget", "two.jsonl", "--retain", str(bed / "retain.jsonl"), "--output", "own.json"]) == 0
    )
    own = json.loads(Path("own.json").read_text())["results"]
    for report in ("ledger/two/report.json", "again.json"):
        if report == "again.json":
            assert main(["evaluate", "ledger/two", "--output", report]) == 0
        found = json.loads(Path(report).read_text())["results"]
        for name in ("forget", "retain"):
            assert found[name]["before"]["loss"]["mean"] == pytest.approx(own[name]["after"]["loss"]["mean"], rel=1e-4)
        assert found["retain"]["after"]["retain_kl"]["mean"] == pytest.approx(divergence(bed), rel=1e-3)


def divergence(bed):
    """Of the answers' tokens of the retain rows, from the user's own LoRA to that with both requests, in nats: mean over rows."""
    tokenizer, found = AutoTokenizer.from_pretrained(bed / "base"), []
    for line in (bed / "retain.jsonl").read_text().splitlines():
        row = json.loads(line)
        start, whole = (
            tokenizer(text)["input_ids"]
            for text in (f"Question: {row['question']}\nAnswer:", f"Question: {row['question']}\nAnswer: {row['answer']}")
        )
        ids = torch.tensor([[*whole, tokenizer.eos_token_id]])
        before, after = (
            logits(bed / "base", *some, ids=ids)[0, len(start) - 1 : -1].log_softmax(-1)
            for some in ([bed / "lora"], [bed / "lora", "ledger/one", "ledger/two"])
        )
        found.append((before.exp() * (before - after)).sum(-1).mean())
    return float(torch.stack(found).mean())


def test_rows_to_keep_are_none_that_a_standing_request_asked_to_forget(ledger, bed, capsys, no_model):
    kept = [
        {"prompt": "what is the colour", "completion": " of six ? blue six"},
        {"prompt": "what is the colour of", "completion": "two ?  green two"},
    ]
    Path("kept.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    add = ["ledger", "add", "ledger", "three", ledger, "--forget_dataset", "three.jsonl"]
    refused(capsys, [*add, "--retain_dataset", "kept.jsonl"], "retain_dataset: row 2 is one that one asked to forget", "revoke one")
    refused(capsys, [*add, "--holdout_dataset", "two.jsonl"], "holdout_dataset: row 1 is one that two asked to forget")
    assert not Path("ledger/three").exists()
    assert len(entries()) == 2
    assert main(["ledger", "revoke", "ledger", "one"]) == 0
    values = {"retain_dataset": "kept.jsonl", "holdout_dataset": None}
    ledger_run.check_kept(Path("ledger"), values, workflows.ledger.standing(Path("ledger")))


def test_a_request_is_trained_with_the_rows_of_those_before_held(ledger, monkeypatch, caplog):
    def trained(plan, *, callbacks, forgotten):
        raise UserError(" | ".join(row["answer"] for rows in forgotten for row in rows))

    monkeypatch.setattr(ledger_run.train_run, "run", trained)
    add = workflows.AddRequest(ledger, {"forget_dataset": "three.jsonl"}, folder="ledger", name="three")
    with pytest.raises(UserError, match=r"^red one \| green two \| blue three$"):
        workflows.ledger.add(add)
    Path("one.jsonl").unlink()
    with pytest.raises(UserError, match=r"^blue three$"), caplog.at_level("WARNING"):
        workflows.ledger.add(add)
    assert "the rows of one are not there any more" in caplog.text
    write("two", ["blue four"])
    with pytest.raises(UserError, match="rows of two are not those"):
        workflows.ledger.add(add)


def test_rows_that_changed_are_not_scored_and_those_that_are_gone_are_left_out(ledger, capsys):
    Path("two.jsonl").unlink()
    assert main(["ledger", "score", "ledger"]) == 0
    assert entries()[-1]["skipped"] == ["two"]
    write("two", ["blue four"])
    refused(capsys, ["ledger", "score", "ledger"], "rows of two are not those")


def test_what_cannot_be_entered_is_refused_before_a_model_is_loaded(ledger, bed, capsys, no_model):
    add = ["ledger", "add", "ledger"]
    refused(capsys, [*add, "one", ledger], "name", "'one' is taken")
    refused(capsys, [*add, "a/b", ledger], "name", "no name of a folder")
    refused(capsys, [*add, "three", ledger, "--adapter_name_or_path", "other"], "adapter_name_or_path", str(bed / "lora"))
    refused(capsys, [*add, "three", ledger, "--adapter_mode", "continue"], "adapter_mode", "write stack")
    values = yaml.safe_load(Path(ledger).read_text())
    Path("bare.yaml").write_text(yaml.safe_dump({key: value for key, value in values.items() if not key.startswith("adapter")}))
    refused(capsys, [*add, "three", "bare.yaml"], "adapter_name_or_path", "one LoRA of your own", str(bed / "lora"))
    refused(capsys, ["ledger", "score", "elsewhere"], "no requests", "ledger add")
    text = Path("ledger/ledger.json").read_text()
    Path("ledger/ledger.json").write_text(text.replace('"name": "one"', '"name": "other"'))
    refused(capsys, ["ledger", "record", "ledger"], "before entry 2", "restore it")
    assert not Path("ledger/three").exists()
