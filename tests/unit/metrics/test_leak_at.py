"""The best of k samples against every subset of k, and against the samples themselves."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_evaluation import memorized, rows, tokenizer  # noqa: F401

from peft_unlearn.data.rows import answer_texts
from peft_unlearn.metrics.leak_at import leak_at
from peft_unlearn.metrics.rouge_l import rouge_l
from peft_unlearn.metrics.suite import sampled
from peft_unlearn.metrics.verbatim import verbatim
from peft_unlearn.model.generation import sample

VALUES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1), min_size=1, max_size=8)


@given(VALUES, st.data())
def test_leak_at_k_is_the_mean_maximum_over_all_subsets(values, data):
    k = data.draw(st.integers(1, len(values)))
    assert leak_at(values, k) == pytest.approx(np.mean([max(subset) for subset in itertools.combinations(values, k)]), abs=1e-12)
    assert leak_at(values[::-1], k) == leak_at(values, k)
    assert leak_at(values, 1) == pytest.approx(np.mean(values), abs=1e-12)
    assert leak_at(values, len(values)) == pytest.approx(max(values), abs=1e-12)


def test_leak_at_k_is_unbiased():
    """Exactly: over all 3^5 draws of K = 5 from three values, its mean is E[max of k draws]."""
    values = [0.0, 0.3, 1.0]
    for k in (1, 2, 4):
        estimate = np.mean([leak_at(drawn, k) for drawn in itertools.product(values, repeat=5)])
        assert estimate == pytest.approx(np.mean([max(drawn) for drawn in itertools.product(values, repeat=k)]), abs=1e-12)


def test_what_cannot_be_measured_is_no_leak_and_no_proof_of_none():
    assert leak_at([None, None], 1) is None
    assert math.isnan(leak_at([0.0, math.nan], 1))
    assert math.isnan(leak_at([math.nan, 1.0, 0.0, 0.0], 1))


def test_leak_of_a_model_is_that_of_its_samples(memorized, tokenizer, rows):  # noqa: F811
    found = sampled(memorized, tokenizer, rows, (1, 2, 6), batch_size=8)
    result = {name: found[name]["rows"] for name in found if name.startswith("leak_at")}
    assert list(found) == [f"{name}_{k}" for name in ("leak_at", "sampled_verbatim") for k in (1, 2, 6)]
    unmeasured = set()
    for i, (row, reference) in enumerate(zip(rows, answer_texts(tokenizer, rows), strict=True)):
        told = [rouge_l(reference, answer) for answer in sample(memorized, tokenizer, [row], 6, seed=0)[0]]
        if None in told:
            unmeasured.add(i)
            assert [result[name][i] for name in result] == [None] * 3
        else:
            assert result["leak_at_1"][i] == pytest.approx(np.mean(told))
            assert result["leak_at_2"][i] == pytest.approx(np.mean([max(pair) for pair in itertools.combinations(told, 2)]))
            assert result["leak_at_6"][i] == pytest.approx(max(told))
    assert 0 < len(unmeasured) < len(rows)
    assert result["leak_at_6"][0] > 0.8  # it was trained on this answer
    assert [entry["n"] for entry in sampled(memorized, tokenizer, [], (1, 2)).values()] == [0] * 4


def test_sampled_verbatim_is_the_longest_run_of_the_same_draws(memorized, tokenizer, rows):  # noqa: F811
    found = sampled(memorized, tokenizer, rows, (1, 3), batch_size=8, seed=2)
    for i, (row, reference) in enumerate(zip(rows, answer_texts(tokenizer, rows), strict=True)):
        shares = [verbatim(reference, answer) for answer in sample(memorized, tokenizer, [row], 3, seed=2)[0]]
        mean, best = (found[f"sampled_verbatim_{k}"]["rows"][i] for k in (1, 3))
        if None in shares:
            assert mean is best is None
        else:
            assert mean == pytest.approx(np.mean(shares))
            assert best == pytest.approx(max(shares))
    assert found["sampled_verbatim_3"]["rows"][0] > found["sampled_verbatim_1"]["rows"][0] > 0
