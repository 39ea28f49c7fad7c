"""Recited documents and answered questions against plain loops and rouge-score's own F1."""

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from test_evaluation import PAIRS, TEXT, llama, memorized, rows, tokenizer  # noqa: F401
from test_generation import argmax_loop

from peft_unlearn.metrics import knowmem as know
from peft_unlearn.metrics import verbmem as verb
from peft_unlearn.metrics.knowmem import knowmem
from peft_unlearn.metrics.rouge_l import rouge_l_f1
from peft_unlearn.metrics.verbmem import verbmem
from peft_unlearn.util.errors import UserError

scorer = RougeScorer(["rougeL"], use_stemmer=True)


def f1(reference: str, answer: str) -> float | None:
    has_words = any(letter.isascii() and letter.isalnum() for letter in reference)
    return scorer.score(reference, answer)["rougeL"].fmeasure if has_words else None


def recited(model, tokenizer, prompt: list[int], rest: list[int], limit: int) -> tuple[str, float | None]:  # noqa: F811
    answer = tokenizer.decode(argmax_loop(model, prompt, limit, tokenizer.eos_token_id), skip_special_tokens=True).strip()
    return answer, f1(tokenizer.decode(rest[:limit], skip_special_tokens=True).strip(), answer)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [(PAIRS[0][1], PAIRS[4][1]), ("the cat sat", "cats sitting the cat"), ("a b", "c"), ("a", ""), ("", "a"), ("a a a", "a")],
)
def test_f1_is_that_of_rouge_score(reference, answer):
    expected = f1(reference, answer)
    assert rouge_l_f1(reference, answer) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("batch_size", [1, 16])
def test_verbmem_continues_the_beginning_of_a_text(memorized, tokenizer, batch_size, monkeypatch):  # noqa: F811
    monkeypatch.setattr(verb, "PREFIX", 6)
    monkeypatch.setattr(verb, "CONTINUATION", 8)
    bare = tokenizer.encode(TEXT)
    tokens = [tokenizer.bos_token_id, *bare]
    short = tokens[:9]  # shorter than two prefixes: cut in the middle
    one = [70]
    texts = [
        {"input_ids": tokens, "labels": tokens},
        {"input_ids": tokens, "labels": [-100, *tokens[1:]]},
        {"input_ids": bare, "labels": [-100, *bare[1:]]},  # as a tokenizer without a begin token writes it
        {"input_ids": short, "labels": [-100, *short[1:]]},
        {"input_ids": one, "labels": [-100]},
    ]
    found = verbmem(memorized, tokenizer, texts, batch_size=batch_size)
    cuts = [6, 6, 6, 5, 1]
    expected = [
        recited(memorized, tokenizer, row["input_ids"][:cut], row["input_ids"][cut:], 8)[1] for row, cut in zip(texts, cuts, strict=True)
    ]
    assert found == [value if value is None else pytest.approx(value) for value in expected]
    assert found[-1] is None  # nothing follows


def test_verbmem_continues_the_prompt_of_a_row_that_has_one(memorized, tokenizer, rows, monkeypatch):  # noqa: F811
    monkeypatch.setattr(verb, "PREFIX", 3)
    monkeypatch.setattr(verb, "CONTINUATION", 12)
    found = verbmem(memorized, tokenizer, rows[:5], batch_size=3)
    for i, row in enumerate(rows[:5]):
        start = row["labels"].count(-100)
        _, value = recited(memorized, tokenizer, row["input_ids"][:start], row["input_ids"][start:], 12)
        assert found[i] == (value if value is None else pytest.approx(value))
    assert found[0] == 1.0  # learnt by heart
    assert verbmem(memorized, tokenizer, rows[4::-1]) == found[::-1]


def asked(model, tokenizer, prompt: str, limit: int) -> str:  # noqa: F811
    answer = tokenizer.decode(argmax_loop(model, tokenizer.encode(prompt), limit, tokenizer.eos_token_id), skip_special_tokens=True)
    for stop in ("\n\n", "\nQuestion", "Question:"):
        answer = answer.split(stop)[0]
    return answer.strip()


@pytest.mark.parametrize("shots", [0, 1])
def test_knowmem_asks_with_examples_before_the_question(tokenizer, shots, monkeypatch):  # noqa: F811
    monkeypatch.setattr(know, "TOKENS", 10)
    model = llama(6)
    questions = [{"question": question, "answer": answer} for question, answer in (*PAIRS[::2], ("And?", "…"))]
    examples = [{"question": "Who?", "answer": "Bo."}][:shots]
    found = knowmem(model, tokenizer, questions, examples, batch_size=3)
    before = "Question: Who?\nAnswer: Bo.\n\n" * shots
    answers = [asked(model, tokenizer, f"{before}Question: {row['question']}\nAnswer:", 10) for row in questions]
    expected = [f1(row["answer"], answer) for row, answer in zip(questions, answers, strict=True)]
    assert found == [value if value is None else pytest.approx(value) for value in expected]
    assert found[-1] is None  # a reference without words
    assert knowmem(model, tokenizer, questions[::-1], examples) == found[::-1]


def test_knowmem_cuts_where_the_next_question_begins(tokenizer, monkeypatch):  # noqa: F811
    """A model that repeats its prompt's pattern: the answer is what stands before "Question"."""
    model = llama(7).train()
    ids = tokenizer.encode("Question: Who?\nAnswer: Bo\nQuestion: Who?\nAnswer: Bo\nQuestion: Who?\nAnswer: Bo")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(loss.detach()) < 0.05
    question = [{"question": "Who?", "answer": "Bo"}]
    assert knowmem(model, tokenizer, question, []) == [1.0]
    assert model.training
    monkeypatch.setattr(know, "STOP_STRINGS", ())
    assert knowmem(model, tokenizer, question, [])[0] < 1  # it goes on with the next question


def test_nothing_to_ask_and_nothing_to_read(tokenizer):  # noqa: F811
    model = llama()
    assert knowmem(model, tokenizer, [], []) == []
    assert verbmem(model, tokenizer, []) == []
    with pytest.raises(UserError, match="knowmem: row 2: .* is empty"):
        knowmem(model, tokenizer, [{"question": "Who?", "answer": "Bo"}, {"question": "Who?", "answer": " "}], [])
    with pytest.raises(UserError, match="knowmem: row 1: "):
        knowmem(model, tokenizer, [{"question": "Who is it? " * 100, "answer": "Bo"}], [])
