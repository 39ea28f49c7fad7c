"""The audit command on small models that were really trained: it tells them apart, goes on where it was cut, and shows no text."""

import html
import json
import shutil
from pathlib import Path

import audit_bed
import pytest
import yaml
from safetensors.torch import load_file, save_file
from verdicts import last_line

from peft_unlearn import attacks
from peft_unlearn.attacks import relearning
from peft_unlearn.cli import main
from peft_unlearn.model import adapters
from peft_unlearn.report import verdict
from peft_unlearn.workflows import views

SETS = ("forget", "retain", "holdout")
FEW = ("--rows", "4")


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    """Models and sets, and an adapter from a run of few steps."""
    folder = tmp_path_factory.mktemp("audit")
    audit_bed.make(folder)
    recipe = {
        "model_name_or_path": str(folder / "memorized"),
        "never_seen_model_name_or_path": str(folder / "never_seen"),
        "dtype": "float32",
        "method": "mollm",
        "stop_at": "never_seen",
        "per_device_eval_batch_size": 64,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {f"{name}_dataset": str(folder / f"{name}.jsonl") for name in SETS}))
    trained(folder, "brief", "--logit_lens_coef", "0", "--max_steps", "100")
    return folder


def trained(folder, name, *keys) -> None:
    assert main(["train", str(folder / "recipe.yaml"), "--output_dir", str(folder / name), *keys]) == 0


def audit(bed, model, *arguments) -> dict:
    """The report of an audit that must work."""
    named = [] if (bed / model / "recipe.yaml").exists() else [word for name in SETS for word in (f"--{name}", bed / f"{name}.jsonl")]
    options = [*named, "--never-seen", bed / "never_seen", "--batch-size", "64", *arguments]
    assert main(["audit", str(bed / model), *map(str, options)]) == 0
    return json.loads((bed / model / "report.json").read_text())


@pytest.fixture(scope="module")
def audited(bed):
    """What audits say of adapters from real runs, hardened and not, the latter scaled to .3, of one that was trained to refuse, and of a model."""
    trained(bed, "ours", "--logit_lens_coef", "0")
    trained(bed, "hardened", "--logit_lens_coef", "1", "--sam_rho", "0.2")
    audit_bed.refusing(bed).save_pretrained(bed / "refusing")
    shutil.copytree(bed / "ours", bed / "scaled", ignore=shutil.ignore_patterns("checkpoint-*", "report.*"))
    config = json.loads((bed / "ours" / "adapter_config.json").read_text())
    (bed / "scaled" / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 0.3 * config["lora_alpha"]}))
    some = {"hardened": ["precision", "scale"], "scaled": ["sanity", "scale"], "refusing": ["relearning"]}  # all of them take a minute
    some["never_seen"] = ["sanity", "scale", "relearning", "prompts", "sampling"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relearning, "RATES", relearning.RATES[-1:])  # the one that brings most back
        return {
            model: audit(bed, model, *(["--attacks", *some[model]] if model in some else []))
            for model in ("ours", "hardened", "scaled", "refusing", "never_seen")
        }


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "word", "failed"),
    [
        ("scaled", "NOT FORGOTTEN", set()),  # plain questions find it
        ("refusing", "SUPPRESSED", {"relearning"}),  # half of the set brings back the other half
        ("never_seen", "NOT SHOWN", set()),  # 16 rows condemn, and pass nothing
        # the inner layers still know, as the report says; half of the answers are loops, and a row more or less decides what is told first
        ("ours", "SUPPRESSED OVER-FORGOTTEN", set()),
        ("hardened", "NOT SHOWN", set()),  # and here they do not
    ],
)
def test_real_cases_are_told_apart(audited, model, word, failed):
    found = audited[model]
    assert found["verdict"]["word"] in word, found["verdict"]["reasons"]
    assert failed <= {name for name, attack in found["attacks"].items() if attack["passed"] is False}
    assert set(found["attacks"]) == set(attacks.ATTACKS) or model != "ours"
    assert verdict.judge(found) == found["verdict"]


@pytest.mark.long
def test_what_each_case_shows(audited):
    passed = {model: {name: attack["passed"] for name, attack in found["attacks"].items()} for model, found in audited.items()}
    for model in ("ours", "hardened"):
        assert False not in passed[model].values()
        assert True in passed[model].values()
        assert any("about 23 would show it" in reason for reason in audited[model]["verdict"]["reasons"])
    inner = {model: audited[model]["results"]["forget"]["after"]["logit_lens"]["mean"] for model in ("ours", "hardened", "never_seen")}
    assert inner["hardened"] < inner["never_seen"] + 0.1 < inner["ours"]
    assert passed["never_seen"] | {"sanity": None, "scale": None} == passed["never_seen"]
    assert any("logit lens" in reason for reason in audited["ours"]["verdict"]["reasons"])
    assert any(reason.startswith("relearning, 25 steps") for reason in audited["refusing"]["verdict"]["reasons"])
    assert "a whole one" in audited["never_seen"]["attacks"]["scale"]["reason"]
    assert any("the attack scale" in reason for reason in audited["never_seen"]["verdict"]["reasons"])
    back = {
        model: max(finding["recovered"] for finding in audited[model]["attacks"]["relearning"]["findings"] if finding["limit"])
        for model in ("ours", "refusing")
    }
    assert back["refusing"] > 1.5 * back["ours"]


@pytest.mark.long
def test_an_audit_adds_to_the_report_of_the_training(bed, audited):
    found = audited["ours"]
    assert found["run"]["settings"]["method"] == "mollm"
    assert found["curve"]
    assert found["never_seen"]["kind"] == "retrained"
    page = html.unescape((bed / "ours" / "report.html").read_text())
    for name, attack in found["attacks"].items():
        assert name in page
        for finding in attack["findings"]:
            assert finding["what"] in page
    assert audited["refusing"]["run"]["command"].startswith("peft-unlearn audit")


@pytest.mark.long
def test_an_audit_brings_the_model_card_up_to_date(bed, audited):
    """It says what the report says now; of the settings it shows what the training wrote."""
    shutil.copytree(bed / "ours", bed / "carded")
    card, found = (bed / "carded" / "README.md").read_text(), audited["ours"]
    assert f"verdict: {found['verdict']['word']}" in card
    for criterion in found["verdict"]["criteria"]:
        if criterion["state"] == "failed":
            assert criterion["question"] in card
    settings = card.partition("## Settings")[2]
    assert f"| `learning_rate` | {found['run']['settings']['learning_rate']} |" in settings
    assert f"| `max_steps` | {found['run']['steps']} |" in settings
    (bed / "carded" / "report.json").unlink()  # of an adapter whose training nobody reported, the card is left alone
    (bed / "carded" / "README.md").write_text("mine")
    audit(bed, "carded", "--attacks", "membership", *FEW)
    assert (bed / "carded" / "README.md").read_text() == "mine"


@pytest.mark.long
def test_never_seen_is_attacked_in_the_same_way(audited):
    """Audited itself, it shows what it showed beside ours, for the same luck and the same fresh adapter."""
    control = {
        (name, finding["what"], finding["metric"]): finding["never_seen"]
        for name, attack in audited["ours"]["attacks"].items()
        for finding in attack["findings"]
    }
    for name in ("relearning", "prompts", "sampling"):
        for finding in audited["never_seen"]["attacks"][name]["findings"]:
            if finding["mean"] is not None:
                assert control[name, finding["what"], finding["metric"]] == pytest.approx(finding["mean"], abs=1e-6)


def test_no_text_unless_it_is_asked_for(bed, capsys):
    asked = [json.loads(line)["question"] for line in (bed / "forget.jsonl").read_text().splitlines()]
    answers = [json.loads(line)["answer"] for line in (bed / "forget.jsonl").read_text().splitlines()]
    shutil.copytree(bed / "brief", bed / "shown")
    audit(bed, "shown", "--attacks", "prompts", *FEW)
    written = [(bed / "shown" / name).read_text() for name in ("report.json", "report.html", "audit.json")]
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == last_line(json.loads(written[0])["verdict"])
    for text in (*written, printed):
        assert not any(line in text for line in (*asked, *answers))
    audit(bed, "shown", "--attacks", "prompts", "--show-text", *FEW)
    assert sum(line in (bed / "shown" / "report.html").read_text() for line in asked) == 4
    assert not any(line in (bed / "shown" / name).read_text() for line in asked for name in ("report.json", "audit.json"))


def test_a_cut_audit_goes_on_and_a_changed_adapter_starts_anew(bed, monkeypatch, capsys):
    folder = bed / "cut"
    shutil.copytree(bed / "brief", folder, ignore=shutil.ignore_patterns("audit.json"))
    made = []

    def watched(name, attack, stops=False):
        class Watched(attacks.Attack):
            def __call__(self, context):
                if stops:
                    raise KeyboardInterrupt
                made.append((name, context.view))
                return attack(context)

        return Watched(**vars(attack))

    names = ("sanity", "prompts", "sampling")
    whole = dict(attacks.ATTACKS)
    for name in names:
        monkeypatch.setitem(attacks.ATTACKS, name, watched(name, whole[name], stops=name == "sampling"))
    before = (folder / "report.json").read_text()
    assert main(["audit", str(folder), "--batch-size", "64", "--attacks", "prompts", "sampling", *FEW]) == 130
    assert made == [("prompts", "never_seen")]
    assert (folder / "report.json").read_text() == before
    monkeypatch.setitem(attacks.ATTACKS, "sampling", watched("sampling", whole["sampling"]))
    cut = audit(bed, "cut", "--attacks", "prompts", "sampling", *FEW)
    assert made[1:] == [("sampling", "never_seen"), ("sanity", "after"), ("prompts", "after"), ("sampling", "after")]

    def loads(*args, **kwargs):
        raise AssertionError("a model was loaded")

    with monkeypatch.context() as patch:
        patch.setattr(adapters, "load_base", loads)
        again = audit(bed, "cut", "--attacks", "prompts", "sampling", *FEW)  # nothing is left to do
    assert again["attacks"] == cut["attacks"]
    assert again["results"] == cut["results"]
    weights = folder / "adapter_model.safetensors"
    save_file({name: tensor * 0.5 for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    made.clear()
    changed = audit(bed, "cut", "--attacks", "prompts", *FEW)
    assert made == [("prompts", "never_seen"), ("sanity", "after"), ("prompts", "after")]
    assert changed["attacks"]["sampling"]["reason"] == "it was not made"
    assert changed["results"]["forget"]["after"]["loss"]["mean"] < cut["results"]["forget"]["after"]["loss"]["mean"]


def test_an_audit_goes_on_from_what_the_run_has_evaluated(bed, monkeypatch):
    """And finds what one finds that evaluates anew."""
    shutil.copytree(bed / "brief", bed / "anew", ignore=shutil.ignore_patterns("audit.json"))
    anew = audit(bed, "anew", "--attacks", "scale")

    def evaluates(*args, **kwargs):
        raise AssertionError("a view was evaluated again")

    shutil.copytree(bed / "brief", bed / "kept")
    with monkeypatch.context() as patch:
        patch.setattr(views, "measure_view", evaluates)
        found = audit(bed, "kept", "--attacks", "scale")
        assert found["results"] == anew["results"]
        assert found["attacks"]["scale"]["findings"] == anew["attacks"]["scale"]["findings"]
        with pytest.raises(AssertionError, match="evaluated again"):
            audit(bed, "kept", *FEW)  # of other rows nothing is known


def test_an_adapter_that_did_not_train_stops_the_audit(bed):
    folder = bed / "unmoved"
    shutil.copytree(bed / "brief", folder, ignore=shutil.ignore_patterns("audit.json"))
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    first = next(name for name in tensors if "lora_B" in name)
    save_file({name: tensor * (name != first) for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
    found = audit(bed, "unmoved", "--attacks", "scale", *FEW)
    assert found["attacks"]["sanity"]["passed"] is False
    assert found["attacks"]["scale"]["reason"] == "it was not made"
    assert found["verdict"]["word"] is None
    assert "modules that moved" in found["verdict"]["reasons"][0]


REFUSED = {
    "an unknown attack": (["brief", "--attacks", "promts"], "attacks: 'promts' is none, did you mean prompts?"),
    "another adapter that is not there": (["brief", "--with", "./nowhere"], "with: './nowhere'"),
    "a model on the Hub without a place for the report": (["someone/adapter"], "output: someone/adapter is no local folder"),
    "both depths": (["brief", "--quick", "--full"], "not allowed with"),
    "letters to choose": (["brief", "--benchmark", "wmdp"], "invalid choice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_user_can_mend_is_said_before_a_model_is_loaded(bed, capsys, monkeypatch, case):
    def loads(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(adapters, "load_base", loads)
    monkeypatch.chdir(bed)
    arguments, expected = REFUSED[case]
    assert main(["audit", *arguments]) == 2
    assert expected in capsys.readouterr().err


def test_a_file_that_is_no_report_is_left_alone(bed, capsys, monkeypatch):
    monkeypatch.setattr(adapters, "load_base", None)
    other = Path(bed / "notes.json")
    other.write_text("{}")
    assert main(["audit", str(bed / "brief"), "--output", str(other)]) == 2
    assert "is there and no report" in capsys.readouterr().err
    assert other.read_text() == "{}"
