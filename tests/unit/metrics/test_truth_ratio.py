"""The truth ratio and what is made of it, against plain arithmetic and closed forms."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_unlearn.metrics.forget_quality import forget_quality
from peft_unlearn.metrics.model_utility import model_utility
from peft_unlearn.metrics.normalized_probability import normalized_probability
from peft_unlearn.metrics.truth_ratio import truth_ratio
from peft_unlearn.metrics.truth_ratio_score import truth_ratio_score
from peft_unlearn.model.scoring import RowScore

ANSWER = st.lists(st.floats(-6, 0), min_size=1, max_size=8)


def scored(logps, end: int = 1) -> RowScore:
    values = np.array(logps, float)
    return RowScore(values, values > -1, end, values, np.ones_like(values))


def p(logps: list[float]) -> float:
    """The geometric mean of the tokens' probabilities, the end token among them."""
    return math.prod(math.exp(x) for x in logps) ** (1 / len(logps))


@given(st.lists(ANSWER, min_size=1, max_size=5), ANSWER)
def test_truth_ratio_is_the_mean_over_wrong_answers(perturbed, right):
    expected = sum(p(one) for one in perturbed) / len(perturbed) / p(right)
    assert truth_ratio([scored(one) for one in perturbed], scored(right)) == pytest.approx(expected)
    options = [p(right), *(p(one) for one in perturbed)]
    found = normalized_probability(truth_ratio([scored(one) for one in perturbed], scored(right)), len(perturbed))
    assert found == pytest.approx(options[0] / sum(options))


def test_burnt_out_probabilities_do_not_underflow():
    assert truth_ratio([scored([-2000.0]), scored([-2001.0])], scored([-2000.0])) == pytest.approx((1 + math.exp(-1)) / 2)
    assert normalized_probability(truth_ratio([scored([-2000.0])], scored([-2000.0])), 1) == pytest.approx(0.5)
    assert truth_ratio([scored([-1.0])], scored([-math.inf])) == math.inf
    assert math.isnan(truth_ratio([scored([-math.inf])], scored([-math.inf])))


def test_nothing_to_measure_and_nan_are_no_ratio():
    one, empty, broken = scored([-1.0]), scored([]), scored([math.nan])
    assert truth_ratio([], one) is None
    assert truth_ratio([empty], one) is None
    assert truth_ratio([one], empty) is None
    assert normalized_probability(None, 3) is None
    for wrong, right in (([broken, one], one), ([one], broken)):
        assert math.isnan(truth_ratio(wrong, right))
        assert math.isnan(normalized_probability(truth_ratio(wrong, right), len(wrong)))


@given(st.floats(0, 20))
def test_scores_reward_indifference_on_forget_and_truth_elsewhere(ratio):
    assert truth_ratio_score(ratio, True) == (0.0 if ratio == 0 else pytest.approx(ratio if ratio <= 1 else 1 / ratio))
    assert truth_ratio_score(ratio, False) == pytest.approx(1 - ratio if ratio < 1 else 0)


@pytest.mark.parametrize("forget", [True, False])
def test_scores_of_ratios_without_a_number(forget):
    assert truth_ratio_score(None, forget) is None
    assert math.isnan(truth_ratio_score(math.nan, forget))
    assert truth_ratio_score(math.inf, forget) == 0


@pytest.mark.parametrize("n", [1, 5, 20])
def test_forget_quality_of_disjoint_samples_is_one_over_the_orders_of_rows(n):
    low, high = [i / 100 for i in range(n)], [1 + i / 100 for i in range(n)]
    assert forget_quality([*low, None], high) == pytest.approx(2 / math.comb(2 * n, n))  # exact two-sided p
    assert forget_quality(low, low[::-1]) == 1


def test_forget_quality_needs_finite_rows_on_both_sides():
    assert math.isnan(forget_quality([], [1.0]))
    assert math.isnan(forget_quality([1.0], [None]))
    assert math.isnan(forget_quality([1.0, math.nan], [1.0]))


@given(st.lists(st.floats(0.01, 1), min_size=9, max_size=9))
def test_model_utility_is_the_harmonic_mean(values):
    assert model_utility(values) == pytest.approx(statistics.harmonic_mean(values))
    assert model_utility([0.0, *values[1:]]) == 0
    assert math.isnan(model_utility([math.nan, 0.0, *values[2:]]))
