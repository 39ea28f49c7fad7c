"""Greedy and sampled answers against plain loops without cache or batches."""

import itertools
import re
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy import stats
from test_evaluation import TEXT, llama, memorized, rows, tokenizer  # noqa: F401
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging

from peft_unlearn.data.rows import answer_texts
from peft_unlearn.model.generation import generate, sample


def argmax_loop(model, prompt: list[int], limit: int, end: int) -> list[int]:
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(limit):
            token = int(model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax())
            if token == end:
                break
            tokens.append(token)
    return tokens[len(prompt) :]


def prompt_and_answer(row) -> tuple[list[int], list[int]]:
    prompt = sum(label == -100 for label in row["labels"]) or (len(row["labels"]) + 1) // 2
    return row["input_ids"][:prompt], row["input_ids"][prompt:]


def expected(model, tokenizer, row, limit: int | None = None) -> str:  # noqa: F811
    prompt, answer = prompt_and_answer(row)
    end = tokenizer.eos_token_id
    limit = limit or max(1, len(answer) + 16 * (end in answer))
    return tokenizer.decode(argmax_loop(model, prompt, limit, end), skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_generation_equals_a_plain_argmax_loop(memorized, tokenizer, rows, batch_size):  # noqa: F811
    answers = generate(memorized, tokenizer, rows, batch_size=batch_size)
    assert answers == [expected(memorized, tokenizer, row) for row in rows]
    assert answers[0] == "Ada is a pilot from Heron Bay."  # stops at the end token


@pytest.mark.parametrize(("seed", "tied"), [(3, False), (4, True)])
def test_generation_of_random_models_equals_a_plain_argmax_loop(tokenizer, rows, seed, tied):  # noqa: F811
    model = llama(seed, tied=tied)
    answers = generate(model, tokenizer, rows, batch_size=4, max_new_tokens=7)
    assert answers == [expected(model, tokenizer, row, 7) for row in rows]


def test_plain_text_is_continued_from_its_first_half(memorized, tokenizer, rows):  # noqa: F811
    row = rows[5]
    tokens = row["input_ids"]
    reference = answer_texts(tokenizer, [row])[0]
    assert TEXT.endswith(reference)
    assert 0 < len(reference) < len(TEXT)
    assert generate(memorized, tokenizer, [row]) == [expected(memorized, tokenizer, row)]
    # A begin token outside the labels is no prompt.
    assert answer_texts(tokenizer, [{"input_ids": tokens, "labels": [-100, *tokens[1:]]}]) == [reference]


def test_a_sampling_generation_config_is_ignored_in_silence(memorized, tokenizer, rows, caplog):  # noqa: F811
    plain = generate(memorized, tokenizer, rows)
    own = memorized.generation_config
    memorized.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, top_k=3, repetition_penalty=9.0, max_length=20, min_new_tokens=3, num_beams=2
    )
    logging.enable_propagation()
    logging.warning_once.cache_clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert generate(memorized, tokenizer, rows) == plain
    finally:
        memorized.generation_config = own
        logging.disable_propagation()
    assert caplog.messages == []


@pytest.mark.parametrize("known_to", ["rows", "model"])
def test_an_answer_ends_at_every_end_token_that_is_known(memorized, tokenizer, rows, known_to):  # noqa: F811
    """Chat rows end on a turn token that the tokenizer does not call its end; the generation_config may know it, or the rows alone."""
    prompt, _ = prompt_and_answer(rows[0])
    turn_end = argmax_loop(memorized, prompt, 4, tokenizer.eos_token_id)[3]
    turn = {"extra_special_tokens": [tokenizer.convert_ids_to_tokens(turn_end)]} if known_to == "rows" else {}
    other = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, bos_token="<s>", **turn)
    answer_ids = [70, 70, 70, turn_end]
    row = {"input_ids": prompt + answer_ids, "labels": [-100] * len(prompt) + answer_ids}
    memorized.generation_config.eos_token_id = [turn_end] if known_to == "model" else None
    try:
        answer = generate(memorized, other, [row, rows[4]])[0]  # the second row runs on, so the first is padded
    finally:
        memorized.generation_config.eos_token_id = None
    assert answer == tokenizer.decode(argmax_loop(memorized, prompt, 3, tokenizer.eos_token_id)).strip()


def test_generation_stays_within_learned_positions(tokenizer, rows):  # noqa: F811
    """A full row must not run past the position table; alone or in a batch its answer is the same."""
    torch.manual_seed(0)
    longest = max(len(row["input_ids"]) for row in rows)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=longest, n_embd=64, n_layer=1, n_head=2, initializer_range=0.3))
    model.eval()
    alone = [generate(model, tokenizer, [row])[0] for row in rows]
    assert generate(model, tokenizer, rows, batch_size=16) == alone


def test_answers_are_cut_before_the_first_stop_string(memorized, tokenizer, rows):  # noqa: F811
    whole = generate(memorized, tokenizer, rows)
    stops = ("pilot", " is", "again again", "never said")
    expected = [re.split("|".join(stops), answer)[0].strip() for answer in whole]
    assert expected != whole
    assert generate(memorized, tokenizer, rows, stop_strings=stops) == expected
    assert generate(memorized, tokenizer, rows[:1], stop_strings=("Ada",)) == [""]


def drawn_loop(model, prompt: list[int], uniforms, end: int) -> list[int]:
    """Token by token, without cache: the first token whose cumulative probability exceeds the uniform number."""
    tokens = list(prompt)
    for uniform in uniforms:
        with torch.no_grad():
            probabilities = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].double().softmax(-1).tolist()
        token = next(i for i, total in enumerate(itertools.accumulate(probabilities)) if total > uniform)
        if token == end:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


def test_samples_equal_a_plain_loop_over_the_distribution_function(memorized, tokenizer, rows):  # noqa: F811
    asked = [rows[0], rows[4], rows[5], rows[6]]
    expected = []
    for row in asked:
        prompt, answer = prompt_and_answer(row)
        limit = max(1, len(answer) + 16 * (tokenizer.eos_token_id in answer))
        rngs = [np.random.default_rng([7, number, *prompt]) for number in range(2)]
        drawn = [drawn_loop(memorized, prompt, rng.random(limit), tokenizer.eos_token_id) for rng in rngs]
        expected.append([tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in drawn])
    assert sample(memorized, tokenizer, asked, 2, seed=7, batch_size=3) == expected


def test_samples_have_the_models_own_distribution(tokenizer, rows):  # noqa: F811
    model, (prompt, _) = llama(5), prompt_and_answer(rows[0])
    drawn = Counter(sample(model, tokenizer, rows[:1], 3000, batch_size=1000, max_new_tokens=1)[0])
    expected = Counter()
    with torch.no_grad():
        for token, p in enumerate(model(input_ids=torch.tensor([prompt])).logits[0, -1].double().softmax(-1).tolist()):
            expected["" if token == tokenizer.eos_token_id else tokenizer.decode([token], skip_special_tokens=True).strip()] += 3000 * p
    often = [text for text, count in expected.items() if count >= 5]
    assert len(often) > 20
    observed = [drawn[text] for text in often]
    counts = [expected[text] for text in often]
    rest = (3000 - sum(observed), 3000 - sum(counts))
    assert stats.chisquare([*observed, rest[0]], [*counts, rest[1]]).pvalue > 1e-3


def test_a_sample_depends_on_its_prompt_and_number_alone(memorized, tokenizer, rows):  # noqa: F811
    drawn = sample(memorized, tokenizer, rows, 3, batch_size=16)
    assert sample(memorized, tokenizer, rows[::-1], 3, batch_size=2) == drawn[::-1]
    assert [answers[:2] for answers in drawn] == sample(memorized, tokenizer, rows, 2, batch_size=5)
    # The same prompt, and the reference longer by some tokens: the luck is the same, so one answer begins the other.
    longer = {"input_ids": rows[2]["input_ids"] + [70] * 5, "labels": rows[2]["labels"] + [70] * 5}
    for short, long in zip(sample(memorized, tokenizer, [rows[2]], 3)[0], sample(memorized, tokenizer, [longer], 3)[0], strict=True):
        assert short.startswith(long) or long.startswith(short)
    assert sample(memorized, tokenizer, rows, 3, seed=1) != drawn
    assert len(set(sample(memorized, tokenizer, rows[4:5], 8)[0])) > 1
    assert sample(memorized, tokenizer, rows, 0) == [[] for _ in rows]
    assert sample(memorized, tokenizer, [], 4) == []


def test_samples_stop_at_stop_strings_and_leave_the_model_as_it_was(memorized, tokenizer, rows):  # noqa: F811
    own = memorized.generation_config = GenerationConfig(do_sample=True, temperature=5.0, top_k=3)
    memorized.train()
    try:
        drawn = sample(memorized, tokenizer, rows, 2)
        stopped = sample(memorized, tokenizer, rows, 2, stop_strings=("a",))
        assert stopped == [[answer.partition("a")[0].strip() for answer in answers] for answers in drawn]
        assert memorized.training
        assert memorized.generation_config is own
        assert own.do_sample
    finally:
        memorized.generation_config = GenerationConfig()
        memorized.eval()
    assert sample(memorized, tokenizer, rows, 2) == drawn


def test_a_peft_model_answers_with_its_active_adapter(tokenizer, rows):  # noqa: F811
    base = llama(3)
    plain = generate(base, tokenizer, rows, max_new_tokens=6), sample(base, tokenizer, rows, 2, max_new_tokens=6)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    adapted = generate(model, tokenizer, rows, max_new_tokens=6), sample(model, tokenizer, rows, 2, max_new_tokens=6)
    assert adapted[0] == [expected(model, tokenizer, row, 6) for row in rows]
    assert adapted[0] != plain[0]
    assert adapted[1] != plain[1]
    with model.disable_adapter():
        assert (generate(model, tokenizer, rows, max_new_tokens=6), sample(model, tokenizer, rows, 2, max_new_tokens=6)) == plain


def otherwise_loop(model, prompt: list[int], answer: list[int], limit: int, end: int) -> list[int]:
    """The likeliest tokens, of which none completes three in a row of the reference, to which the last two of the prompt belong."""
    known = [*prompt[-2:], *answer]
    runs = [known[i : i + 3] for i in range(len(known) - 2)]
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(limit):
            order = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].argsort(descending=True).tolist()
            token = next(token for token in order if [*tokens[-2:], token] not in runs)
            if token == end:
                break
            tokens.append(token)
    return tokens[len(prompt) :]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_answers_otherwise_equal_a_plain_loop_that_passes_over_runs_of_the_reference(memorized, tokenizer, rows, batch_size):  # noqa: F811
    asked = [row for row in rows if len(prompt_and_answer(row)[0]) > 1]
    found = generate(memorized, tokenizer, asked, batch_size=batch_size, otherwise=True)
    expected, end = [], tokenizer.eos_token_id
    for row in asked:
        prompt, answer = prompt_and_answer(row)
        limit = max(1, len(answer) + 16 * (end in answer))
        expected.append(tokenizer.decode(otherwise_loop(memorized, prompt, answer, limit, end), skip_special_tokens=True).strip())
    assert found == expected
    assert found[0] != generate(memorized, tokenizer, asked[:1])[0]  # what it knows by heart, it does not say
