"""What is meant by a base: its name, its revision and its vocabulary; and the tokenizer that an adapter was trained with."""

import json
import logging
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_unlearn import data
from peft_unlearn.cli import main
from peft_unlearn.config.unlearn_config import ModelArguments
from peft_unlearn.merging import merge
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import same_model
from peft_unlearn.workflows import loading

IDS = torch.arange(3, 15).view(2, 6)
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)


def say(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture
def hub(bed, tmp_path, monkeypatch):
    """A cache of the Hub with a model of two revisions, main and v2."""
    folder = tmp_path / "cache" / "models--org--tiny"
    (folder / "refs").mkdir(parents=True)
    for name, source, commit in (("main", "base", "a" * 40), ("v2", "other", "b" * 40)):
        shutil.copytree(bed / source, folder / "snapshots" / commit)
        (folder / "refs" / name).write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def lora_of(tmp_path, revision):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained("org/tiny", revision=revision), LoraConfig(r=2, target_modules=["q_proj"]))
    model.peft_config["default"].revision = revision
    model.save_pretrained(tmp_path / "mine")
    return str(tmp_path / "mine")


def test_a_runs_revision_is_kept_and_merged_into(hub, recipe, tmp_path):
    assert main(["train", recipe(model_name_or_path="org/tiny", model_revision="v2", max_steps=1)]) == 0
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["revision"] == "v2"
    assert 'from_pretrained("org/tiny", revision="v2")' in (tmp_path / "out" / "README.md").read_text()
    merge("out", "merged")
    expected = say(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("org/tiny", revision="v2"), "out"))
    torch.testing.assert_close(say(AutoModelForCausalLM.from_pretrained("merged")), expected, atol=1e-5, rtol=1e-5)


def test_the_revision_that_an_adapter_names_is_the_bases(hub, tmp_path):
    mine = lora_of(tmp_path, "v2")
    model = ModelArguments(model_name_or_path="org/tiny", adapter_name_or_path=mine)
    assert loading.settle_base(model, mine, key="adapter_name_or_path").model_revision == "v2"
    assert model.model_revision != "v2", "the settings that it was given stay"
    with pytest.raises(UserError, match=r"^adapter_name_or_path: .*revision v2 of org/tiny.*model_revision is b"):
        loading.settle_base(ModelArguments(model_name_or_path="org/tiny", model_revision="b"), mine, key="adapter_name_or_path")


@pytest.mark.parametrize(
    "name",
    ["/home/me/.cache/huggingface/hub/models--org--Tiny-1/snapshots/0123456789abcdef", "D:\\models\\Tiny-1", "org/tiny-1", "Tiny-1/"],
)
def test_one_models_names(name):
    assert same_model(name, "org/Tiny-1")
    assert not same_model(name, "org/Tiny-2")


def test_another_name_is_told_with_both(bed, caplog):
    model = ModelArguments(model_name_or_path=str(bed / "other"), adapter_name_or_path=str(bed / "lora"))
    with caplog.at_level(logging.WARNING):
        loading.settle_base(model, str(bed / "lora"), key="adapter_name_or_path")
    assert str(bed / "base") in caplog.text
    assert str(bed / "other") in caplog.text


@pytest.mark.parametrize(("named", "word"), [(None, "does not name its base"), ("D:\\models\\tiny", "which is not here")])
def test_evaluate_asks_for_a_base_that_is_not_here(bed, tmp_path, capsys, named, word):
    shutil.copytree(bed / "lora", tmp_path / "lora")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": named}))
    assert main(["evaluate", str(tmp_path / "lora"), "--forget", str(bed / "forget.jsonl")]) == 2
    assert word in (said := capsys.readouterr().err)
    assert "--base" in said


def of_a_gone_base(bed, folder):
    shutil.copytree(bed / "lora", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/data/models/gone"}))
    return folder


def test_merge_asks_for_a_base_that_is_not_here(bed, tmp_path, capsys):
    mine = of_a_gone_base(bed, tmp_path / "lora")
    assert main(["merge", str(mine), "--output", str(tmp_path / "merged")]) == 2
    assert "its base is /data/models/gone, which is not here; write --base" in capsys.readouterr().err


def test_a_never_seen_adapter_of_a_base_that_is_gone_is_put_on_the_runs_base(bed, tmp_path, caplog):
    mine, model = of_a_gone_base(bed, tmp_path / "lora"), ModelArguments(model_name_or_path=str(bed / "base"))
    assert loading.base_of(mine, model, key="never-seen") == (str(bed / "base"), "main")
    _, tokenizer, _ = loading.load_tokenizer(model, 64)
    with caplog.at_level(logging.WARNING):
        loading.check_never_seen(mine, model, tokenizer, key="never-seen")
    assert "/data/models/gone, which is not here" in caplog.text


def with_tokenizer(bed, folder, *tokens):
    shutil.copytree(bed / "lora", folder)
    tokenizer = AutoTokenizer.from_pretrained(bed / "base")
    tokenizer.add_tokens(list(tokens))
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder), tokenizer


@pytest.mark.parametrize("alone", [False, True], ids=["with its tokenizer", "alone"])
def test_rows_are_written_with_the_template_in_the_adapters_folder(alone, bed, tmp_path, caplog):
    mine, _ = with_tokenizer(bed, tmp_path / "mine")
    for file in Path(mine).glob("tokenizer*") if alone else ():
        file.unlink()
    with caplog.at_level(logging.INFO):
        _, tokenizer, length = loading.load_tokenizer(ModelArguments(model_name_or_path=str(bed / "base"), adapter_name_or_path=mine), 64)
    assert mine in caplog.text
    rows = data.tokenize(data.load(str(bed / "forget.jsonl"), name="forget"), tokenizer, length, name="forget").rows
    turns = [{"role": "user", "content": "what is the colour of one ?"}, {"role": "assistant", "content": "red one"}]
    whole, _ = with_tokenizer(bed, tmp_path / "whole")
    expected = AutoTokenizer.from_pretrained(whole).apply_chat_template(turns, tokenize=True, return_dict=False)
    assert list(rows[0]["input_ids"]) == list(expected)


def test_tokens_beyond_the_embedding_are_refused(bed, tmp_path):
    mine, tokenizer = with_tokenizer(bed, tmp_path / "mine", *(f"new{i}" for i in range(64)))
    model = ModelArguments(model_name_or_path=str(bed / "base"), adapter_name_or_path=mine)
    config, tokenizer, _ = loading.load_tokenizer(model, 64)
    with pytest.raises(UserError, match="has 64 entries and its tokenizer tokens beyond them"):
        loading.check_fit(config, model, tokenizer)
