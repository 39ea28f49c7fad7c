"""What may not change the direction of the baselines' combiners, and gradients that are zero, parallel or opposite."""

import numpy as np
import pytest
from combine_inputs import BASELINES, direction, examples, gradients, nearest_of_hull, seeds, weights
from hypothesis import given
from hypothesis import strategies as st

from peft_unlearn.combine import blur, gru, mgda, pcgrad, weighted_sum

baselines = pytest.mark.parametrize("combiner", BASELINES.values(), ids=BASELINES)
objectives = st.integers(1, 4)


# Symmetries


@baselines
@examples
@given(seeds, objectives)
def test_coefficients_scale_the_gradients_first(combiner, seed, m):
    G, coefs = gradients(seed, m)
    np.testing.assert_allclose(direction(combiner, G, coefs), direction(combiner, coefs[:, None] * G), rtol=1e-7, atol=1e-10)


@baselines
@examples
@given(seeds, objectives, st.floats(-20, 20))
def test_a_common_scale_moves_the_step_with_it(combiner, seed, m, exponent):
    G, coefs = gradients(seed, m)
    scale = 10.0**exponent
    np.testing.assert_allclose(weights(combiner, scale * G, coefs), weights(combiner, G, coefs), rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(weights(combiner, G, scale * coefs) / scale, weights(combiner, G, coefs), rtol=1e-7, atol=1e-10)


@baselines
@examples
@given(seeds, objectives)
def test_the_order_of_the_retain_objectives_does_not_matter(combiner, seed, m):
    G, coefs = gradients(seed, m)
    order = np.append(0, 1 + np.random.default_rng(seed).permutation(m - 1)).astype(int)
    np.testing.assert_allclose(weights(combiner, G[order], coefs[order]), weights(combiner, G, coefs)[order], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("combiner", [gru, blur], ids=["gru", "blur"])
@examples
@given(seeds, st.floats(0.1, 0.9))
def test_the_retain_side_counts_as_one_gradient(combiner, seed, share):
    G, coefs = gradients(seed, 2)
    split = np.vstack([G, G[1]])
    d = direction(combiner, split, np.array([coefs[0], share * coefs[1], (1 - share) * coefs[1]]))
    np.testing.assert_allclose(d, direction(combiner, G, coefs), rtol=1e-9, atol=1e-12)


@baselines
@examples
@given(seeds)
def test_one_objective_is_its_gradient(combiner, seed):
    G, coefs = gradients(seed, 1)
    np.testing.assert_allclose(weights(combiner, G, coefs), coefs, rtol=1e-12)


# Gradients that are zero or dependent


@baselines
@pytest.mark.parametrize("size", [0.0, 1e-12, 0.99e-4])
@examples
@given(seeds, st.integers(2, 4), st.data())
def test_a_retain_gradient_of_mere_noise_is_left_out(combiner, size, seed, m, data):
    G, coefs = gradients(seed, m)
    k = data.draw(st.integers(1, m - 1))
    rest = np.delete(np.arange(m), k)
    G[k] *= size * np.linalg.norm(G[rest], axis=1).max() / np.linalg.norm(G[k])
    w = weights(combiner, G, coefs)
    assert w[k] == 0
    np.testing.assert_allclose(w[rest], weights(combiner, G[rest], coefs[rest]), rtol=1e-7, atol=1e-10)


@baselines
@examples
@given(seeds, st.integers(2, 4), st.sampled_from([0.0, 1e-6]))
def test_once_all_is_forgotten_the_retain_side_goes_on_alone(combiner, seed, m, size):
    G, coefs = gradients(seed, m)
    G[0] *= size
    alone = {gru: weighted_sum, blur: weighted_sum}.get(combiner, combiner)
    w = weights(combiner, G, coefs)
    assert w[0] == 0
    np.testing.assert_allclose(w[1:], weights(alone, G[1:], coefs[1:]), rtol=1e-7, atol=1e-10)


@baselines
@pytest.mark.parametrize("k", [0, 1])
def test_an_objective_with_coefficient_zero_is_left_out(combiner, k):
    G, coefs = gradients(1, 3)
    G[k] *= 1e6  # nor may it make noise of the others
    coefs[k] = 0
    w = weights(combiner, G, coefs)
    assert w[k] == 0
    assert (np.delete(w, k) != 0).any()


@baselines
@pytest.mark.parametrize("m", [1, 3])
def test_without_any_gradient_nothing_moves(combiner, m):
    np.testing.assert_array_equal(weights(combiner, np.zeros((m, 4))), np.zeros(m))


@pytest.mark.parametrize("combiner", [gru, blur], ids=["gru", "blur"])
@examples
@given(seeds)
def test_retain_gradients_that_cancel_leave_forgetting_alone(combiner, seed):
    (forget, g), _ = gradients(seed, 2)
    d = direction(combiner, np.stack([forget, g, -g]))
    np.testing.assert_allclose(d, forget, rtol=1e-9, atol=1e-12)


@baselines
@examples
@given(seeds, st.floats(0.1, 10))
def test_opposite_gradients(combiner, seed, ratio):
    (g,), _ = gradients(seed, 1)
    d = direction(combiner, np.stack([g, -ratio * g]))
    expected = {gru: -ratio * g, blur: g, mgda: 0 * g, pcgrad: 0 * g}[combiner]
    np.testing.assert_allclose(d, expected, rtol=1e-9, atol=1e-9)


@baselines
@examples
@given(seeds, st.floats(0.1, 10))
def test_parallel_gradients(combiner, seed, ratio):
    (g,), _ = gradients(seed, 1)
    d = direction(combiner, np.stack([g, ratio * g]))
    expected = {gru: 1 + ratio, blur: 1.0, mgda: min(1.0, ratio), pcgrad: 1 + ratio}[combiner]
    np.testing.assert_allclose(d, expected * g, rtol=1e-7, atol=1e-10)


@examples
@given(seeds, st.integers(2, 4))
def test_mgda_rests_where_the_gradients_sum_to_zero(seed, m):
    G, _ = gradients(seed, m)
    np.testing.assert_allclose(direction(mgda, np.vstack([G, -G.sum(axis=0)])), 0.0, atol=1e-7)


@examples
@given(seeds, st.floats(-9, -1), st.integers(2, 4))
def test_mgda_of_nearly_equal_gradients_stays_within_them(seed, exponent, m):
    G, _ = gradients(seed, m)
    G = G[0] + 10.0**exponent * G
    d = direction(mgda, G)
    np.testing.assert_allclose(d, nearest_of_hull(G), rtol=0, atol=3 * 10.0**exponent)
    assert (G @ d > 0).all()
