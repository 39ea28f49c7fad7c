"""The truth ratio and what is made of it, against plain arithmetic and closed forms."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_unlearn.metrics.truth_ratio import below_one, forget_quality, model_utility, near_one, normalised_probability, truth_ratio
from peft_unlearn.model.scoring import RowScore

ANSWER = st.lists(st.floats(-6, 0), min_size=1, max_size=8)
RATIOS = st.lists(st.floats(0, 20), min_size=1, max_size=12)


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
    found = normalised_probability(scored(right), [scored(one) for one in perturbed])
    assert found == pytest.approx(options[0] / sum(options))


def test_burnt_out_probabilities_do_not_underflow():
    assert truth_ratio([scored([-2000.0]), scored([-2001.0])], scored([-2000.0])) == pytest.approx((1 + math.exp(-1)) / 2)
    assert normalised_probability(scored([-2000.0]), [scored([-2000.0])]) == pytest.approx(0.5)
    assert truth_ratio([scored([-1.0])], scored([-math.inf])) == math.inf
    assert math.isnan(truth_ratio([scored([-math.inf])], scored([-math.inf])))


def test_nothing_to_measure_and_nan_are_no_ratio():
    one, empty, broken = scored([-1.0]), scored([]), scored([math.nan])
    for metric in (truth_ratio, lambda wrong, right: normalised_probability(right, wrong)):
        assert metric([], one) is None
        assert metric([empty], one) is None
        assert metric([one], empty) is None
        assert math.isnan(metric([broken, one], one))
        assert math.isnan(metric([one], broken))


@given(RATIOS)
def test_aggregates_reward_indifference_on_forget_and_truth_elsewhere(ratios):
    folded = [0.0 if r == 0 else r if r <= 1 else 1 / r for r in ratios]
    assert near_one([*ratios, None]) == pytest.approx(sum(folded) / len(folded))
    assert below_one([None, *ratios]) == pytest.approx(sum(1 - r for r in ratios if r < 1) / len(ratios))
    assert near_one([1.0] * 3) == 1 == below_one([0.0] * 3)
    assert near_one([0.0, math.inf]) == 0 == below_one([1.0, math.inf])
    assert all(math.isnan(aggregate([*ratios, math.nan])) and math.isnan(aggregate([None])) for aggregate in (near_one, below_one))


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
