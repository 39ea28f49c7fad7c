"""A base in a GGUF file: read as transformers reads it, trained on, saved, evaluated and merged; and files that are no such base."""

import json
import math
import re
import shutil
from pathlib import Path

import gguf_files
import huggingface_hub
import pytest
import torch
import yaml
from cli_bed import refused
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from peft_unlearn.cli import main
from peft_unlearn.model import adapters, loading
from peft_unlearn.publish.card_parts import linked, repository, source
from peft_unlearn.util import gguf
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.redaction import is_local
from peft_unlearn.workflows import AskRequest, PlanRequest, ask, plan

IDS = torch.tensor([[1, 270, 300, 310, 290]])


def say(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    """A transformers folder, and beside it GGUF files of it, each alone in a folder, and rows."""
    folder = gguf_files.make_folder(tmp_path_factory.mktemp("gguf"))
    for kind in ("F32", "Q8_0"):
        (folder / kind).mkdir()
        gguf_files.write(folder, folder / kind / "tiny.gguf", kind)
    return folder


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_logits_and_tokens_are_those_of_transformers_own_loading(bed, kind):
    theirs = AutoModelForCausalLM.from_pretrained(bed / kind, gguf_file="tiny.gguf", dtype=torch.float32)
    model = adapters.load_base(bed / kind / "tiny.gguf")
    assert torch.equal(say(model), say(theirs))
    assert model.name_or_path == model.config._name_or_path == str(bed / kind / "tiny.gguf")
    found, own = loading.tokenizer(bed / kind / "tiny.gguf"), AutoTokenizer.from_pretrained(bed)
    text = "Question: Where does Ann live?\nAnswer: Ann lives in Oslo."
    assert found(text)["input_ids"] == own(text)["input_ids"]
    assert (found.eos_token_id, found.bos_token_id, found.chat_template) == (2, 1, own.chat_template)


def test_a_file_in_32_bits_is_the_folder_that_it_was_written_from(bed):
    torch.testing.assert_close(say(adapters.load_base(bed / "F32" / "tiny.gguf")), say(LlamaForCausalLM.from_pretrained(bed)))


def test_what_lies_beside_the_file_is_not_read(bed, tmp_path):
    shutil.copytree(bed, tmp_path / "both", ignore=shutil.ignore_patterns("F32", "Q8_0"))
    shutil.copy(bed / "Q8_0" / "tiny.gguf", tmp_path / "both")
    config = json.loads((tmp_path / "both" / "tokenizer_config.json").read_text())
    (tmp_path / "both" / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<unk>"}))
    assert loading.tokenizer(tmp_path / "both" / "tiny.gguf").eos_token == "</s>"
    assert not torch.equal(say(adapters.load_base(tmp_path / "both" / "tiny.gguf")), say(LlamaForCausalLM.from_pretrained(bed)))


def test_positions_that_the_file_scales_are_scaled_and_other_scalings_refused(bed, tmp_path):
    """Llama 3.1's factors, by their formula; transformers leaves the tensor aside."""
    frequencies = [500000.0 ** -(i / 16) for i in range(0, 16, 2)]

    def factor(frequency):
        turns = 8192 * frequency / (2 * math.pi)
        smooth = (turns - 1) / (4 - 1)
        return 8.0 if turns < 1 else 1.0 if turns > 4 else 1 / ((1 - smooth) / 8 + smooth)

    shutil.copytree(bed, tmp_path / "far", ignore=shutil.ignore_patterns("F32", "Q8_0"))
    config = json.loads((tmp_path / "far" / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 500000.0
    (tmp_path / "far" / "config.json").write_text(json.dumps(config))
    factors = [factor(frequency) for frequency in frequencies]
    path = gguf_files.write(tmp_path / "far", tmp_path / "llama31.gguf", factors=factors)
    config["rope_parameters"] |= {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config["rope_parameters"]["original_max_position_embeddings"] = 8192
    (tmp_path / "far" / "config.json").write_text(json.dumps(config))
    torch.testing.assert_close(say(adapters.load_base(path)), say(LlamaForCausalLM.from_pretrained(tmp_path / "far")))
    other = gguf_files.write(tmp_path / "far", tmp_path / "other.gguf", factors=[1 + i for i in range(8)])
    with pytest.raises(UserError, match=r"^model_name_or_path: .*scales its positions in a way that transformers does not read"):
        loading.config(other)


def recipe(bed, tmp_path, **changes):
    sets = {f"{name}_dataset": str(bed / f"{name}.jsonl") for name in ("forget", "retain")}
    values = {**sets, "output_dir": "out", "max_steps": 2, "per_device_train_batch_size": 2, "lora_r": 4, "use_cpu": True, **changes}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(values))
    return "my.yaml"


def test_it_is_trained_on_evaluated_audited_and_merged(bed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = bed / "Q8_0"
    assert main(["train", recipe(bed, tmp_path, model_name_or_path=str(base), gguf_file="tiny.gguf", learning_rate=1e-2)]) == 0
    assert json.loads(Path("out/adapter_config.json").read_text())["base_model_name_or_path"] == str(base / "tiny.gguf")
    report = json.loads(Path("out/report.json").read_text())
    assert report["run"]["settings"]["model_name_or_path"] == str(base / "tiny.gguf")

    trained = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, gguf_file="tiny.gguf", dtype=torch.float32), "out")
    expected = say(trained)
    card, loaded = Path("out/README.md").read_text(), dict[str, object]()
    shutil.copy(base / "tiny.gguf", "tiny.gguf")
    exec(re.search(r"```python\n(.+?)```", card, re.DOTALL)[1], loaded)  # which names the file alone
    assert torch.equal(say(loaded["model"]), expected)
    Path("tiny.gguf").unlink()
    assert (expected - say(adapters.load_base(base / "tiny.gguf"))).norm() > 1e-3 * expected.norm()

    assert main(["evaluate", "out", "--output", "again.json"]) == 0
    again = json.loads(Path("again.json").read_text())
    for view in ("before", "after"):
        found, was = (one["results"]["forget"][view]["loss"]["mean"] for one in (again, report))
        assert found == pytest.approx(was, rel=1e-5)

    assert main(["merge", "out", "--output", "merged"]) == 0
    assert sorted(path.name for path in Path().iterdir()) == ["again.html", "again.json", "merged", "my.yaml", "out"]
    torch.testing.assert_close(say(AutoModelForCausalLM.from_pretrained("merged")), expected, atol=1e-4, rtol=1e-4)
    assert AutoTokenizer.from_pretrained("merged")("Ann lives")["input_ids"] == AutoTokenizer.from_pretrained(bed)("Ann lives")["input_ids"]
    assert main(["evaluate", str(base / "tiny.gguf"), "--forget", str(bed / "forget.jsonl")]) == 0
    assert main(["audit", "out", "--attacks", "scale"]) == 0
    assert set(ask(AskRequest("out")).answers("Where does Ann live?", True, 4)) == {"before", "after"}


def test_a_plan_counts_it_and_offers_no_bits_on_top(bed, tmp_path):
    values = yaml.safe_load((tmp_path / recipe(bed, tmp_path, model_name_or_path=str(bed / "Q8_0" / "tiny.gguf"))).read_text())
    found = plan(PlanRequest({**values, "use_cpu": False}))
    assert found.memory.peak > 0
    assert [key for change in found.changes for key in change.settings if "bit" in key and "adam" not in key] == []


def test_a_file_on_the_hub_is_named_behind_its_repository(bed, tmp_path, monkeypatch):
    cached = tmp_path / "models--me--tiny-GGUF"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    shutil.copytree(bed / "Q8_0", cached / "snapshots" / ("a" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert torch.equal(say(adapters.load_base("me/tiny-GGUF/tiny.gguf")), say(adapters.load_base(bed / "Q8_0" / "tiny.gguf")))
    with pytest.raises(UserError, match=r"^model_name_or_path: 'me/tiny-GGUF/other.gguf' is no file here and did not come from the Hub"):
        loading.config("me/tiny-GGUF/other.gguf")


def test_a_card_names_a_file_on_the_hub_by_its_repository():
    assert source("me/my-GGUF/my-q8_0.gguf") == '"me/my-GGUF", gguf_file="my-q8_0.gguf"'
    assert (repository("me/my-GGUF/my-q8_0.gguf"), repository("me/my")) == ("me/my-GGUF", "me/my")
    assert linked("me/my-GGUF/my-q8_0.gguf").endswith("(https://huggingface.co/me/my-GGUF)")
    assert (is_local("my-q8_0.gguf"), is_local("me/my-GGUF/my-q8_0.gguf")) == (True, False)


def damaged(bed, folder, how):
    """A file that is no base, by its name in `BAD`."""
    whole, path = (bed / "F32" / "tiny.gguf").read_bytes(), folder / "bad.gguf"
    if how == "encoder":
        return gguf_files.write(bed, path, architecture="bert")
    if how == "vocabulary":
        return gguf_files.write(bed, path, tensors=False)
    if how == "imatrix":
        return gguf_files.write_imatrix(path)
    if how == "mmproj":
        return gguf_files.write(bed, path, architecture="clip", said=[("general.type", how)])
    if how in ("clip", "controlvector"):
        return gguf_files.write(bed, path, architecture=how)
    if how == "folder":
        gguf_files.write(bed, path)
        return folder
    if how == "text":
        whole = b"no model at all"
    if how != "gone":
        path.write_bytes(whole[: {"empty": 0, "cut header": 1000, "cut weights": len(whole) - 5000}.get(how, len(whole))])
    return path


BAD = {
    "encoder": "transformers does not read the model in ",
    "vocabulary": "holds a vocabulary, and no language model",
    "imatrix": "holds an importance matrix, which llama.cpp quantizes by, and no language model; write the file of the model itself",
    "mmproj": "holds the part of a model that sees or hears, and no language model",
    "clip": "holds the part of a model that sees or hears, and no language model",
    "controlvector": "holds a control vector, which steers a model, and no language model",
    "folder": "holds GGUF files and no config.json; write the file itself, such as ",
    "text": "is no GGUF file, or one that is cut or damaged",
    "empty": "is empty; fetch it again",
    "cut header": "is no GGUF file, or one that is cut or damaged",
    "cut weights": "is no GGUF file, or one that is cut or damaged",
    "gone": "bad.gguf'; write the path of a GGUF file",
}


@pytest.mark.parametrize("how", BAD)
def test_what_is_no_base_is_refused_before_a_model_is_loaded(how, bed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adapters, "load_base", lambda *_, **__: pytest.fail("it was loaded"))
    path = damaged(bed, tmp_path, how)
    refused(capsys, ["train", recipe(bed, tmp_path, model_name_or_path=str(path))], "model_name_or_path: ", BAD[how])
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"load_in_4bit": True}, "load_in_4bit: a GGUF file"),
        ({"gguf_file": "tiny.gguf"}, "gguf_file: 'tiny.gguf' must be the name of a .gguf file, in the folder"),
    ],
)
def test_what_does_not_go_with_a_file_is_refused(changes, word, bed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = recipe(bed, tmp_path, model_name_or_path=str(bed / "Q8_0" / "tiny.gguf"), **changes)
    for command in ("train", "plan"):
        refused(capsys, [command, made], word)


def test_the_package_that_reads_it_is_named(bed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    path = str(bed / "Q8_0" / "tiny.gguf")
    refused(capsys, ["train", recipe(bed, tmp_path, model_name_or_path=path)], "model_name_or_path: ", "pip install 'peft-unlearn[gguf]'")
