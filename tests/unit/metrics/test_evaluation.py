"""Evaluation against computations from the definitions, one row at a time."""

import copy

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit, Params4bit
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import AddedToken, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from peft_unlearn.data.rows import answer_texts
from peft_unlearn.metrics.exact_memorization import exact_memorization
from peft_unlearn.metrics.extraction_from_start import extraction_from_start
from peft_unlearn.metrics.extraction_strength import extraction_strength
from peft_unlearn.metrics.loss import loss
from peft_unlearn.metrics.min_k import min_k
from peft_unlearn.metrics.min_k_pp import min_k_pp
from peft_unlearn.metrics.probability import probability
from peft_unlearn.metrics.rouge_l import rouge_l
from peft_unlearn.metrics.suite import evaluate
from peft_unlearn.model.generation import generate
from peft_unlearn.model.scoring import RowScore, score

PAIRS = [
    ("Who is Ada?", "Ada is a pilot from Heron Bay."),
    ("Where does the old watchmaker Bruno live, and with whom?", "In Salt Moor."),
    ("What?", "x"),
    ("Say it again.", "again again again again again again again again"),
    ("How many?", "42, and then one more, or so they say in the long and quiet streets of Umber Falls"),
]
TEXT = "Corin mends clocks in a small shop by the harbour, and every clock runs late."


@pytest.fixture(scope="module")
def tokenizer():
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=310, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator([TEXT, *(part for pair in PAIRS for part in pair)], trainer)
    # No pad token, and token 0 is text ("!"), as in Qwen and Llama 3.
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def rows(tokenizer):
    def qa(prompt: str, answer: str, end: str = "</s>") -> dict[str, list[int]]:
        prompt_ids, answer_ids = tokenizer.encode("<s>" + prompt), tokenizer.encode(" " + answer + end if answer else end)
        return {"input_ids": prompt_ids + answer_ids, "labels": [-100] * len(prompt_ids) + answer_ids}

    def text(ids: list[int]) -> dict[str, list[int]]:
        return {"input_ids": ids, "labels": list(ids)}

    degenerate = [qa("Nothing to say", ""), qa("Cut", "off", end=""), text([70]), text([70, tokenizer.eos_token_id]), text([71] * 12)]
    half_known = qa("Who is Ada?", "Bo is a pilot from Heron Bay.")
    return [qa(*pair) for pair in PAIRS] + [text(tokenizer.encode("<s>" + TEXT)), *degenerate, half_known]


def llama(seed: int = 0, *, tied: bool = False, **kwargs) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"bos_token_id": None, "eos_token_id": None}  # the tokenizer knows them
    # A wide init: spread probabilities and visible position effects, unlike the near-uniform .02.
    return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=tied, initializer_range=0.15, max_position_embeddings=128, **kwargs))


@pytest.fixture(scope="module")
def memorized(rows):
    """A model that knows half of what it is asked: argmax right and wrong, answers that end and answers that run on."""
    model = llama(1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(25):
        for row in rows[:4]:
            model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def plain_score(model, row) -> tuple[list[float], list[bool]]:
    """Log-probabilities and argmax hits of one row alone, from the definition."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double()
    logps, correct = [], []
    for t in range(1, len(row["labels"])):
        if (label := row["labels"][t]) != -100:
            logps.append(float(logits[t - 1].log_softmax(-1)[label]))
            correct.append(int(logits[t - 1].argmax()) == label)
    return logps, correct


def plain_metrics(logps: list[float], correct: list[bool], end: int) -> dict[str, float | None]:
    words = correct[: len(correct) - end]
    suffixes = [k for k in range(len(words)) if all(words[k:])]
    prefixes = [k for k in range(len(words) + 1) if all(words[:k])]
    nll = -sum(logps) / len(logps) if logps else None
    return {
        "loss": nll,
        "probability": None if nll is None else float(np.exp(-nll)),
        "extraction_strength": None if not words else (1 - min(suffixes) / len(words) if suffixes else 0.0),
        "exact_memorization": None if not words else sum(words) / len(words),
        "extraction_from_start": None if not words else max(prefixes) / len(words),
    }


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize(("seed", "tied"), [(0, False), (1, True), (2, False)])
def test_scores_equal_one_row_at_a_time(tokenizer, rows, seed, tied, batch_size):
    model = llama(seed, tied=tied)
    for row, result in zip(rows, score(model, Dataset.from_list(rows), tokenizer, batch_size=batch_size), strict=True):
        logps, correct = plain_score(model, row)
        np.testing.assert_allclose(result.logps, logps, rtol=1e-6, atol=1e-6)
        assert result.correct.tolist() == correct


def test_metrics_equal_the_definition_on_a_half_memorized_model(memorized, tokenizer, rows):
    result = evaluate(memorized, tokenizer, rows, batch_size=4)
    ends = [1, 1, 1, 1, 1, 0, 1, 0, 0, 1, 0, 1]
    seen = set()
    for i, row in enumerate(rows):
        for name, value in plain_metrics(*plain_score(memorized, row), ends[i]).items():
            assert result[name]["rows"][i] == (None if value is None else pytest.approx(value, rel=1e-6, abs=1e-6)), (i, name)
            seen.add((name, value if value in (None, 0.0, 1.0) else "between"))
    for name in ("extraction_strength", "exact_memorization"):
        assert {(name, None), (name, 0.0), (name, 1.0), (name, "between")} <= seen
    for name, metric in result.items():
        values = [value for value in metric["rows"] if value is not None]
        assert metric["n"] == len(values), name
        assert metric["mean"] == pytest.approx(sum(values) / len(values) if values else np.nan, rel=1e-12, nan_ok=True), name


def test_results_follow_the_order_of_rows(memorized, tokenizer, rows):
    order = np.random.default_rng(0).permutation(len(rows))
    straight = evaluate(memorized, tokenizer, rows, batch_size=3)
    shuffled = evaluate(memorized, tokenizer, [rows[i] for i in order], batch_size=5)
    for name in straight:
        for to, source in enumerate(order):
            expected = straight[name]["rows"][source]
            assert shuffled[name]["rows"][to] == (None if expected is None else pytest.approx(expected, rel=1e-6, abs=1e-6))
    assert shuffled.answers == [straight.answers[i] for i in order]


def row_score(correct: list[int], end: int = 0, logps: list[float] | None = None) -> RowScore:
    size = len(correct)
    return RowScore(np.array([-1.0] * size if logps is None else logps), np.array(correct, bool), end, np.zeros(size), np.ones(size))


@pytest.mark.parametrize(
    ("correct", "end", "strength", "memorized", "begun"),
    [
        ([1], 0, 1, 1, 1),
        ([0], 0, 0, 0, 0),
        ([1, 0], 0, 0, 0.5, 0.5),
        ([0, 1, 0, 1], 0, 0.25, 0.5, 0),
        ([1, 1, 0, 1], 0, 0.25, 0.75, 0.5),
        ([1, 1, 1, 0], 1, 1, 1, 1),
        ([0, 0, 1], 1, 0, 0, 0),
        ([1], 1, None, None, None),
        ([], 0, None, None, None),
    ],
)
def test_extraction_from_either_end_and_exact_memorization_by_hand(correct, end, strength, memorized, begun):
    assert extraction_strength(row_score(correct, end)) == strength
    assert exact_memorization(row_score(correct, end)) == memorized
    assert extraction_from_start(row_score(correct, end)) == begun


def test_loss_and_probability_count_the_end_token():
    row = row_score([1, 1], end=1, logps=[np.log(0.5), np.log(0.125)])
    assert loss(row) == pytest.approx(-np.log(0.25))
    assert probability(row) == pytest.approx(0.25)
    assert loss(row_score([])) is None
    assert probability(row_score([])) is None


def test_nan_never_reads_as_forgotten():
    row = row_score([0, 1], logps=[np.nan, -1.0])
    of_scores = (loss, probability, extraction_strength, extraction_from_start, exact_memorization, min_k, min_k_pp)
    assert all(np.isnan(metric(row)) for metric in of_scores)
    assert probability(row_score([0], logps=[-np.inf])) == 0
    assert loss(row_score([0], logps=[-np.inf])) == np.inf


def longest_common(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    return longest_common(a[1:], b[1:]) + 1 if a[0] == b[0] else max(longest_common(a[1:], b), longest_common(a, b[1:]))


@pytest.mark.parametrize("answer", ["", "the quick fox", "fox quick the", "a quick brown cat saw the fox", "THE quick, brown fox!"])
def test_rouge_l_is_the_recall_of_the_longest_common_subsequence(answer):
    words = answer.lower().replace(",", "").replace("!", "").split()
    assert rouge_l("The quick brown fox.", answer) == pytest.approx(longest_common(["the", "quick", "brown", "fox"], words) / 4)


def test_rouge_l_stems_and_leaves_references_without_words_out():
    assert rouge_l("running clocks", "run clock") == 1
    assert rouge_l("", "anything") is None
    assert rouge_l("…!", "") is None


def test_a_turn_end_and_white_space_after_it_are_no_answer(tokenizer):
    chat = copy.deepcopy(tokenizer)
    chat.add_tokens([AddedToken("<|turn_end|>", special=True)])  # special, and none of the tokenizer's named special tokens
    answer, end = chat.encode(" Heron Bay"), chat.encode("<|turn_end|>\n")
    rows = [{"input_ids": [60, 61, *answer, *end], "labels": [-100, -100, *answer, *end]}]
    assert end[0] not in chat.all_special_ids
    assert score(llama(), rows, chat)[0].end == len(end) == 2
    assert answer_texts(chat, rows) == ["Heron Bay"]


def test_the_answer_of_a_row_of_many_turns_is_its_first(tokenizer, rows):
    turns = {key: rows[0][key] + rows[1][key] for key in ("input_ids", "labels")}
    assert answer_texts(tokenizer, [turns]) == [PAIRS[0][1]]
    assert score(llama(), [turns], tokenizer)[0].logps.size == sum(label != -100 for label in turns["labels"])


def test_scoring_leaves_training_state_and_random_numbers_alone(tokenizer, rows):
    model = get_peft_model(llama(), LoraConfig(target_modules="all-linear", lora_dropout=0.5)).train()
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    model.config.use_cache = False
    frozen = model.base_model.model.model.layers[0].eval()
    flags, weights = {name: m.training for name, m in model.named_modules()}, {k: v.clone() for k, v in model.state_dict().items()}
    own, random = model.get_base_model().generation_config, torch.get_rng_state()
    first, second = evaluate(model, tokenizer, rows), evaluate(model, tokenizer, rows)
    assert {name: result["rows"] for name, result in first.items()} == {name: result["rows"] for name, result in second.items()}
    assert first.answers == second.answers
    assert torch.equal(torch.get_rng_state(), random)
    assert {name: m.training for name, m in model.named_modules()} == flags
    assert not frozen.training
    assert all(torch.equal(model.state_dict()[k], v) for k, v in weights.items())
    assert model.get_base_model().generation_config is own
    assert model.config.use_cache is False
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())


def dequantized_twin(model: nn.Module, twin: nn.Module) -> nn.Module:
    """fp32 model with the very weights that the NF4 model computes with."""
    for name, parameter in model.named_parameters():
        quantized = isinstance(parameter, Params4bit)
        weight = dequantize_4bit(parameter.data, parameter.quant_state) if quantized else parameter.data
        twin.get_parameter(name).data.copy_(weight)
    return twin


def test_metrics_on_nf4_equal_those_of_the_dequantized_twin(memorized, tokenizer, rows, tmp_path):
    memorized.save_pretrained(tmp_path)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = LlamaForCausalLM.from_pretrained(tmp_path, quantization_config=nf4, dtype=torch.float32)
    quantized = [module for module in model.modules() if isinstance(module, Linear4bit)]
    for module in quantized:
        module.support_avx512bf16_for_cpu = False
    twin = dequantized_twin(model, llama(5))
    assert len(quantized) == 14
    assert not torch.equal(twin.model.layers[0].mlp.up_proj.weight, memorized.model.layers[0].mlp.up_proj.weight)
    ours, theirs = (evaluate(m, tokenizer, rows, batch_size=3) for m in (model, twin))
    assert ours.answers == theirs.answers
    assert ours["extraction_strength"]["mean"] > 0
    for name in theirs:
        assert ours[name]["mean"] == pytest.approx(theirs[name]["mean"], rel=1e-6, abs=1e-6, nan_ok=True)


def test_an_empty_set_gives_no_numbers(tokenizer):
    result = evaluate(llama(), tokenizer, [])
    assert all(np.isnan(metric["mean"]) and metric["n"] == 0 and metric["rows"] == [] for metric in result.values())
    assert generate(llama(), tokenizer, []) == []
