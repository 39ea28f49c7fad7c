"""Greedy answers against a plain argmax loop without cache or batches."""

import warnings

import pytest
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging

from peft_unlearn.evaluation import answer_texts, generate
from tests.test_evaluation import TEXT, llama, memorised, rows, tokenizer  # noqa: F401


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
def test_generation_equals_a_plain_argmax_loop(memorised, tokenizer, rows, batch_size):  # noqa: F811
    answers = generate(memorised, tokenizer, rows, batch_size=batch_size)
    assert answers == [expected(memorised, tokenizer, row) for row in rows]
    assert answers[0] == "Ada is a pilot from Heron Bay."  # stops at the end token


@pytest.mark.parametrize(("seed", "tied"), [(3, False), (4, True)])
def test_generation_of_random_models_equals_a_plain_argmax_loop(tokenizer, rows, seed, tied):  # noqa: F811
    model = llama(seed, tied=tied)
    answers = generate(model, tokenizer, rows, batch_size=4, max_new_tokens=7)
    assert answers == [expected(model, tokenizer, row, 7) for row in rows]


def test_plain_text_is_continued_from_its_first_half(memorised, tokenizer, rows):  # noqa: F811
    row = rows[5]
    tokens = row["input_ids"]
    reference = answer_texts(tokenizer, [row])[0]
    assert TEXT.endswith(reference)
    assert 0 < len(reference) < len(TEXT)
    assert generate(memorised, tokenizer, [row]) == [expected(memorised, tokenizer, row)]
    # A begin token outside the labels is no prompt.
    assert answer_texts(tokenizer, [{"input_ids": tokens, "labels": [-100, *tokens[1:]]}]) == [reference]


def test_a_sampling_generation_config_is_ignored_in_silence(memorised, tokenizer, rows, caplog):  # noqa: F811
    plain = generate(memorised, tokenizer, rows)
    own = memorised.generation_config
    memorised.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, top_k=3, repetition_penalty=9.0, max_length=20, min_new_tokens=3, num_beams=2
    )
    logging.enable_propagation()
    logging.warning_once.cache_clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert generate(memorised, tokenizer, rows) == plain
    finally:
        memorised.generation_config = own
        logging.disable_propagation()
    assert caplog.messages == []


@pytest.mark.parametrize("known_to", ["rows", "model"])
def test_an_answer_ends_at_every_end_token_that_is_known(memorised, tokenizer, rows, known_to):  # noqa: F811
    """Chat rows end on a turn token that the tokenizer does not call its end; the generation_config may know it, or the rows alone."""
    prompt, _ = prompt_and_answer(rows[0])
    turn_end = argmax_loop(memorised, prompt, 4, tokenizer.eos_token_id)[3]
    turn = {"extra_special_tokens": [tokenizer.convert_ids_to_tokens(turn_end)]} if known_to == "rows" else {}
    other = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, bos_token="<s>", **turn)
    answer_ids = [70, 70, 70, turn_end]
    row = {"input_ids": prompt + answer_ids, "labels": [-100] * len(prompt) + answer_ids}
    memorised.generation_config.eos_token_id = [turn_end] if known_to == "model" else None
    try:
        answer = generate(memorised, other, [row, rows[4]])[0]  # the second row runs on, so the first is padded
    finally:
        memorised.generation_config.eos_token_id = None
    assert answer == tokenizer.decode(argmax_loop(memorised, prompt, 3, tokenizer.eos_token_id)).strip()


def test_generation_stays_within_learned_positions(tokenizer, rows):  # noqa: F811
    """A full row must not run past the position table; alone or in a batch its answer is the same."""
    torch.manual_seed(0)
    longest = max(len(row["input_ids"]) for row in rows)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=longest, n_embd=64, n_layer=1, n_head=2, initializer_range=0.3))
    model.eval()
    alone = [generate(model, tokenizer, [row])[0] for row in rows]
    assert generate(model, tokenizer, rows, batch_size=16) == alone
