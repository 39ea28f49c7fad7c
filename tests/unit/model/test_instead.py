"""What a never-seen model would say instead: the rest of a whole KL divergence, from the likeliest tokens."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_llama

from peft_unlearn.data.collating import collate_rows
from peft_unlearn.data.prompt_dropout import PromptDropout
from peft_unlearn.model import instead


def some(seed, rows=6, vocabulary=90):
    g = torch.Generator().manual_seed(seed)
    q, p = torch.randn(2, rows, vocabulary, generator=g, dtype=torch.float64) * 2
    return q, p, torch.randint(0, vocabulary, (rows,), generator=g)


def two_outcomes(q, p, true):
    q, p = (x.softmax(-1).gather(-1, true[:, None]).squeeze(-1) for x in (q, p))
    return q, q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()


def test_with_the_true_token_or_another_it_is_the_whole_divergence(monkeypatch):
    monkeypatch.setattr(instead, "LIKELIEST", 1000)
    q, p, true = some(0)
    whole = F.kl_div(p.log_softmax(-1), q.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    of_true, two = two_outcomes(q, p, true)
    assert torch.allclose(two + (1 - of_true) * instead.divergence(p, true, instead.likeliest(q, true)), whole, atol=1e-9)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 3, 20, 88]))
def test_it_is_that_of_the_distributions_with_the_unlikeliest_tokens_as_one(seed, kept):
    q, p, true = some(seed, rows=1)
    others = [token for token in range(90) if token != int(true)]
    a, b = (x[0, others].softmax(-1).tolist() for x in (q, p))
    order = sorted(range(89), key=lambda i: -a[i])
    merged = [[*(side[i] for i in order[:kept]), sum(side[i] for i in order[kept:])] for side in (a, b)]
    expected = sum(x * math.log(x / y) for x, y in zip(*merged, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instead, "LIKELIEST", kept)
        found = instead.divergence(p, true, instead.likeliest(q, true))
        at_home = instead.divergence(q, true, instead.likeliest(q, true))
    assert float(found) == pytest.approx(expected, abs=1e-5)
    assert abs(float(at_home)) < 1e-5


def test_it_does_not_pull_at_the_true_token_and_has_a_gradient_where_a_model_leaves_no_other():
    q, p, true = some(1)
    logits = p.clone().requires_grad_()
    instead.divergence(logits, true, instead.likeliest(q, true)).sum().backward()
    assert (logits.grad.gather(-1, true[:, None]) == 0).all()
    assert logits.grad.abs().sum() > 1
    few = p.masked_fill(~F.one_hot(instead.likeliest(q, true)[:, 0].long(), 90).bool(), -math.inf).requires_grad_()
    instead.divergence(few, true, instead.likeliest(q, true)).sum().backward()
    assert few.grad.isfinite().all()


def rows():
    ids = [[5, 9, 11, 13, 17, 2], [5, 9, 21, 2]]
    labels = [[-100, -100, *row[2:]] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def test_each_token_has_what_a_forward_over_its_row_alone_gives():
    model, found = tiny_llama(), instead.beside(rows(), instead.of_model(tiny_llama(), rows(), 2))
    for row in found:
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0]
        for place, label in enumerate(row["labels"]):
            here = np.asarray(row["instead"][place])
            if label == -100:
                assert not here.any()
                continue
            tokens, logps = np.split(here, 2)
            others = logits[place - 1].clone()
            others[label] = -math.inf
            expected = others.log_softmax(-1)
            assert label not in tokens
            assert np.allclose(logps, expected[tokens.astype(int)].numpy(), atol=1e-5)
            assert logps.min() >= np.sort(expected.numpy())[-len(tokens)] - 1e-5


def test_a_batch_has_each_label_s_own_behind_padding_and_a_shortened_prompt():
    made = instead.beside(rows(), [np.full((4, 2), [7, -0.5], np.float32) * [[1], [2], [3], [4]], np.full((2, 2), [9, -1.0], np.float32)])
    batch = collate_rows([made[1], made[0]], 0)
    found = instead.anchor(batch["instead"], batch["places"]).states
    assert found.tolist() == [[9, -1], [9, -1], [7, -0.5], [14, -1], [21, -1.5], [28, -2]]
    short = PromptDropout([made[0]] * 8, 1.0, range(100))({"number": 0, **made[0]}, np.random.default_rng(0))
    assert [x[0] for x, label in zip(short["instead"], short["labels"], strict=True) if label != -100][-2:] == [21, 28]
