"""A small base, an adapter of the user's own and rows on the disk, and recipes for them: the fixtures of the command line's tests.

`conftest.py` imports it, in a process that runs no test as well: so each function imports the libraries itself.
"""

import json
from functools import partial
from pathlib import Path

import pytest
import yaml

from peft_unlearn.cli import main

COLOURS, NUMBERS = ["red", "green", "blue"], ["one", "two", "three", "four", "five", "six"]


WORDS = ["who", "what", "is", "the", "of", "in", "colour", "city", "Question", "Answer", ":", "?", *COLOURS, *NUMBERS]


@pytest.fixture(scope="session")
def bed(tmp_path_factory):
    """A folder with a tiny random Llama ("base"), another one ("other"), a wider one ("wide"), a LoRA on the first ("lora"), and data."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bed")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    for seed, name in enumerate(("base", "other", "wide")):
        torch.manual_seed(seed)
        config.hidden_size, config.head_dim = (128, 64) if name == "wide" else (64, 32)
        LlamaForCausalLM(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    lora = get_peft_model(
        LlamaForCausalLM.from_pretrained(folder / "base"), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    )
    lora.save_pretrained(folder / "lora")

    def rows(name, lines):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    pairs = list(zip(NUMBERS, COLOURS * 2, strict=True))
    rows("forget.jsonl", [{"question": f"what is the colour of {n} ?", "answer": f"{colour} {n}"} for n, colour in pairs[:4]])
    rows("retain.jsonl", [{"question": f"who is in the city of {n} ?", "answer": f"{colour} {n}"} for n, colour in pairs])
    rows("holdout.jsonl", [{"question": f"who is the colour of {n} ?", "answer": f"{n} {colour}"} for n, colour in pairs[1:4]])
    rows("empty.jsonl", [])
    rows("columns.jsonl", [{"title": "red", "body": "blue"}])
    (folder / "broken.jsonl").write_text('{"text": "red"}\n{"text": "blue"\n')
    (folder / "t5").mkdir()
    (folder / "t5" / "config.json").write_text('{"model_type": "t5"}')
    return folder


def write_recipe(bed, **changes):
    """Write a recipe of a short run into the working folder, and return its path."""
    values = {
        "model_name_or_path": str(bed / "base"),
        "forget_dataset": str(bed / "forget.jsonl"),
        "retain_dataset": str(bed / "retain.jsonl"),
        "output_dir": "out",
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "lora_r": 4,
        "use_cpu": True,
    } | changes
    Path("my.yaml").write_text(yaml.safe_dump({key: value for key, value in values.items() if value != "left out"}))
    return "my.yaml"


@pytest.fixture
def recipe(bed, tmp_path, monkeypatch):
    """`write_recipe` for this bed, in an empty folder, where the commands run."""
    monkeypatch.chdir(tmp_path)
    return partial(write_recipe, bed)


@pytest.fixture
def no_model(monkeypatch):
    from peft_unlearn.model import adapters

    def loads(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(adapters, "load_base", loads)


def refused(capsys, arguments, *words):
    """Run a command that must be refused: status 2 and one line, after any bars, that holds every one of `words`."""
    capsys.readouterr()
    assert main(arguments) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("peft-unlearn: error: ")
    for word in words:
        assert word in error
