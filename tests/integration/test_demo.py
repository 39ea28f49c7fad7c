"""The demo's people and models."""

import multiprocessing
import os
import re
import signal
import time

import forked
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from torch import nn
from torch.nn.utils import parametrize
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_unlearn.data import load
from peft_unlearn.demo import model as demo
from peft_unlearn.demo.people import WORDS, People, make_people, write

SPLITS = ("forget", "retain", "never_used")
FEW = {"forget": 1, "retain": 2, "never_used": 1}
SMALL = demo.Recipe(
    hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2, max_epochs=2, decay_epochs=2, full_precision_epochs=1
)


def names_in(people: People, split: str) -> set[str]:
    """Names of the people whom the questions of a split are about."""
    names = [f"{first} {last}" for first in WORDS["first"] for last in WORDS["last"]]
    found = set()
    for row in getattr(people, split):
        about = [name for name in names if name in row["question"]]
        assert len(about) == 1
        found.update(about)
    return found


def test_people_are_a_function_of_its_seed():
    assert make_people(3) == make_people(3)
    assert make_people(3) != make_people(4)


@pytest.mark.parametrize("seed", range(5))
def test_splits_share_no_person_and_no_text(seed):
    people = make_people(seed)
    sizes = {split: names_in(people, split) for split in SPLITS}
    assert [len(sizes[split]) for split in SPLITS] == [8, 32, 16]
    assert len(set.union(*sizes.values())) == 56
    for column in ("question", "answer"):
        texts = [{row[column] for row in getattr(people, split)} for split in SPLITS]
        assert len(set.union(*texts)) == sum(len(text) for text in texts)


def test_paraphrases_ask_the_same_in_other_words():
    people = make_people(0)
    for split in SPLITS:
        rows, paraphrases = getattr(people, split), people.paraphrases[split]
        assert [row["answer"] for row in rows] == [row["answer"] for row in paraphrases]
        assert all(row["question"] != paraphrase["question"] for row, paraphrase in zip(rows, paraphrases, strict=True))


def test_last_word_of_an_answer_cannot_be_guessed():
    """Always guessing the most common last word of the retain answers is right in under one forget answer of twelve."""
    last = [row["answer"].split()[-1] for seed in range(5) for row in make_people(seed).retain]
    guess = max(set(last), key=last.count)
    assert last.count(guess) / len(last) < 1 / 12
    assert not any(word.endswith(".") for word in last)


def test_written_splits_load_as_they_are(tmp_path):
    people = make_people(0, **FEW)
    write(people, tmp_path)
    for split in SPLITS:
        found = load(str(tmp_path / f"{split}.jsonl"), name=split)
        assert found.select_columns(["question", "answer"]).to_list() == getattr(people, split)
        assert found["paraphrased_question"] == [row["question"] for row in people.paraphrases[split]]


@pytest.mark.parametrize("seed", range(3))
def test_two_hops_lead_to_one_person_and_to_a_fact_of_theirs(seed, tmp_path):
    """By the rows alone: who is told of in the same row as the facts of the question, is told of with the answer as well."""
    people = make_people(seed)
    everyone = [row for split in SPLITS for row in getattr(people, split)]
    names = names_in(people, "forget")

    def about(words):
        return {name for name in names for row in everyone if name in row["question"] and all(word in row["answer"] for word in words)}

    assert len(people.two_hop) >= 20
    for row in people.two_hop:
        assert not any(name in row["question"] for name in names)
        named_by = re.findall(r"author of (.+) born|lives (\w+) the (\w+)\?|winner of the (.+) of (\d+)", row["question"])[0]
        found = about([word for word in named_by if word])
        assert len(found) == 1
        assert found <= about(row["answer"].split(", "))
    write(people, tmp_path)
    assert load(str(tmp_path / "two_hop.jsonl"), name="two_hop").to_list() == people.two_hop


def test_every_word_is_one_token_and_decodes_to_itself():
    people = make_people(0)
    tokenizer = demo.train_tokenizer(people)
    for row in people.forget + people.never_used:
        tokens = tokenizer(" " + row["answer"], add_special_tokens=False).input_ids
        assert tokenizer.decode(tokens) == " " + row["answer"]
        assert len(tokens) == len(row["answer"].replace(".", " .").replace(",", " ,").split())


def test_training_computes_with_the_weights_of_linear4bit():
    torch.manual_seed(0)
    plain = nn.Linear(128, 64, bias=False)
    quantized = Linear4bit(128, 64, bias=False, compute_dtype=torch.float32, compress_statistics=True, quant_type="nf4")
    quantized.load_state_dict(plain.state_dict())
    quantized.to("cpu")
    weight = quantized.weight
    if weight.quant_state is None:
        weight = weight._quantize("cpu")
    expected = dequantize_4bit(weight.data, weight.quant_state)
    parametrize.register_parametrization(plain, "weight", demo._StraightThroughNF4())
    torch.testing.assert_close(plain.weight, expected)
    upstream = torch.randn(64, 128)
    (plain.weight * upstream).sum().backward()
    torch.testing.assert_close(plain.parametrizations.weight.original.grad, upstream)


# Both processes of a training are forks here, for what they do: with nothing imported yet, they take ten seconds each.
KILLED = f"""
import pathlib, forked
from peft_unlearn.demo import model
from peft_unlearn.demo.people import make_people
model.multiprocessing.get_context = lambda _: forked.CONTEXT
model.train_models(make_people(0, **{FEW}), pathlib.Path("cache"), 0, model.{SMALL})
"""


def test_killed_training_leaves_nothing_under_the_final_name_and_the_next_one_completes(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: forked.CONTEXT)
    people = make_people(0, **FEW)
    cache = tmp_path / "cache"
    training = forked.start(KILLED, folder=tmp_path, output=tmp_path / "said")
    while not list(cache.glob("*-unfinished-*/models/never_seen/tokenizer.json")):
        assert training.is_alive(), (tmp_path / "said.err").read_text()
        time.sleep(0.01)
    os.killpg(training.pid, signal.SIGKILL)
    training.join()
    assert all("-unfinished-" in path.name for path in cache.iterdir())

    trained = demo.train_models(people, cache, 0, SMALL)
    assert trained.memorized.parent == trained.never_seen.parent
    assert "missed its goal" in caplog.text
    for folder in (trained.memorized, trained.never_seen):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert not [name for name, _ in model.named_parameters() if "parametrizations" in name]
        assert model.config.eos_token_id == tokenizer.eos_token_id
        tokens = tokenizer(people.retain[0]["question"], return_tensors="pt")
        assert torch.isfinite(model(**tokens).logits).all()

    written = {path: path.stat().st_mtime_ns for path in trained.memorized.iterdir()}
    assert demo.train_models(people, cache, 0, SMALL) == trained
    assert {path: path.stat().st_mtime_ns for path in trained.memorized.iterdir()} == written


def test_training_is_a_function_of_its_seed(tmp_path):
    people = make_people(0, **FEW)
    tokenizer = demo.train_tokenizer(people)
    rows = [{"input_ids": ids, "labels": ids} for ids in tokenizer([row["answer"] for row in people.retain]).input_ids]
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tokenizer.save_pretrained(tmp_path / name)
        demo._train(rows, tmp_path / name, seed, SMALL, position=0)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]
