"""The baselines' combiners, against directions worked out on the gradients themselves, other solvers, and what their papers promise."""

import itertools
import math

import numpy as np
import pytest
import torch
from combine_inputs import direction, examples, gradients, nearest_of_hull, seeds, unit, weights
from hypothesis import given
from hypothesis import strategies as st
from torchjd.aggregation import MGDAWeighting, PCGradWeighting

from peft_unlearn.combine import blur, gru, mgda, pcgrad


def without(g, h):
    """g less its component along h."""
    return g - (g @ unit(h)) * unit(h)


def gru_by_projection(G, coefs):
    forget, retain = coefs[0] * G[0], coefs[1:] @ G[1:]
    return (without(forget, retain) if forget @ retain < 0 else forget) + retain


def blur_by_projection(G, coefs):
    forget, retain = coefs[0] * G[0], coefs[1:] @ G[1:]
    return forget + without(retain, forget)


def pcgrad_by_projection(G, coefs):
    d = np.zeros(G.shape[1])
    for i in range(len(G)):
        ends = []
        for order in itertools.permutations(range(len(G))):
            g = coefs[i] * G[i]
            for j in order:
                if j != i and g @ G[j] < 0:
                    g = without(g, G[j])
            ends.append(g)
        d += np.mean(ends, axis=0)
    return d


# The definitions


@pytest.mark.parametrize(
    ("combiner", "expected"),
    [(gru, gru_by_projection), (blur, blur_by_projection), (pcgrad, pcgrad_by_projection)],
    ids=["gru", "blur", "pcgrad"],
)
@examples
@given(seeds, st.integers(2, 4))
def test_projections_of_the_gradients_themselves(combiner, expected, seed, m):
    G, coefs = gradients(seed, m)
    np.testing.assert_allclose(direction(combiner, G, coefs), expected(G, coefs), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(direction(combiner, G), expected(G, np.ones(m)), rtol=1e-9, atol=1e-12)


@examples
@given(seeds, st.integers(1, 6))
def test_mgda_is_the_nearest_point_of_the_hull(seed, m):
    G, coefs = gradients(seed, m)
    np.testing.assert_allclose(direction(mgda, G, coefs), nearest_of_hull(coefs[:, None] * G), rtol=1e-7, atol=1e-9)


@examples
@given(seeds, st.integers(2, 8))
def test_mgda_finds_the_nearest_point_among_more_gradients_than_dimensions(seed, m):
    G, _ = gradients(seed, m, n=2)
    G[:, 0] += 1.01  # mostly away from 0, so that the nearest point is not always 0
    np.testing.assert_allclose(direction(mgda, G), nearest_of_hull(G), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("combiner", "theirs"), [(mgda, MGDAWeighting()), (pcgrad, PCGradWeighting())], ids=["mgda", "pcgrad"])
@examples
@given(seeds)
def test_two_objectives_agree_with_torchjd(combiner, theirs, seed):
    G, _ = gradients(seed, 2, n=3)
    G = torch.as_tensor(G)
    np.testing.assert_allclose(combiner(G @ G.T), theirs(G @ G.T), rtol=1e-9, atol=1e-12)


@examples
@given(seeds, st.integers(3, 5))
def test_mgda_is_no_longer_than_torchjd_and_hardly_shorter(seed, m):
    G, _ = gradients(seed, m)
    G = torch.as_tensor(G)
    ours, theirs = (float(w @ G @ G.T @ w) ** 0.5 for w in (mgda(G @ G.T), MGDAWeighting(epsilon=1e-4, max_iters=1000)(G @ G.T)))
    assert ours <= theirs + 1e-12
    assert ours == pytest.approx(theirs, rel=0.05, abs=1e-3)  # theirs is iterative


def test_pcgrad_is_what_torchjd_gives_on_average():
    G = torch.as_tensor(gradients(5, 3, n=2)[0])
    gramian, theirs = G @ G.T, PCGradWeighting()
    torch.manual_seed(0)
    draws = torch.stack([theirs(gramian) for _ in range(1000)])
    error = draws.std(dim=0) / math.sqrt(len(draws))
    assert (error > 1e-3).any()  # the order does matter here
    assert ((pcgrad(gramian) - draws.mean(dim=0)).abs() <= 4 * error + 1e-12).all()


# What the papers promise


@examples
@given(seeds, st.integers(2, 4))
def test_gru_lowers_the_retain_side_at_least_as_fast_as_without_forgetting(seed, m):
    G, coefs = gradients(seed, m, spread=3.0)
    retain = coefs[1:] @ G[1:]
    d, forget = direction(gru, G, coefs), coefs[0] * G[0]
    assert d @ retain >= retain @ retain * (1 - 1e-9)
    if forget @ retain < 0:  # and of all vectors that do, its forget part is the nearest to the forget gradient: off by a multiple of g_R
        assert d @ retain == pytest.approx(retain @ retain, rel=1e-9)
        np.testing.assert_allclose(without(forget - (d - retain), retain), 0.0, atol=1e-12)


@examples
@given(seeds, st.integers(2, 4))
def test_blur_lowers_the_forget_loss_as_if_alone(seed, m):
    G, coefs = gradients(seed, m, spread=3.0)
    forget = coefs[0] * G[0]
    assert direction(blur, G, coefs) @ forget == pytest.approx(forget @ forget, rel=1e-9)


@examples
@given(seeds, st.integers(1, 6))
def test_mgda_lowers_the_losses_it_counts_at_one_rate_and_the_others_faster(seed, m):
    G, coefs = gradients(seed, m, spread=2.0)
    w = weights(mgda, G, coefs)
    d, slopes = w @ G, coefs * (G @ (w @ G))
    assert (w >= 0).all()
    assert (w / coefs).sum() == pytest.approx(1.0, rel=1e-9)
    assert (slopes >= d @ d * (1 - 1e-6)).all()
    np.testing.assert_allclose(slopes[w > 0], d @ d, rtol=1e-6)
    assert np.linalg.norm(d) <= np.linalg.norm(coefs[:, None] * G, axis=1).min() * (1 + 1e-9)


@examples
@given(seeds)
def test_pcgrad_raises_neither_of_two_losses(seed):
    G, coefs = gradients(seed, 2, n=2, spread=3.0)
    assert (G @ direction(pcgrad, G, coefs) >= -1e-15).all()


@pytest.mark.parametrize("combiner", [gru, pcgrad], ids=["gru", "pcgrad"])
@examples
@given(seeds, st.integers(1, 4))
def test_without_conflict_it_is_the_sum(combiner, seed, m):
    G, coefs = gradients(seed, m)
    np.testing.assert_allclose(weights(combiner, np.abs(G), coefs), coefs, rtol=1e-12)


def test_blur_of_orthogonal_gradients_is_the_sum():
    np.testing.assert_array_equal(weights(blur, np.diag([1.0, 2.0, 3.0]), np.array([0.5, 1.0, 2.0])), [0.5, 1.0, 2.0])


def test_a_larger_coefficient_counts_less_in_mgda():
    np.testing.assert_allclose(weights(mgda, np.eye(2), np.array([1.0, 2.0])), [0.8, 0.4], rtol=1e-12)
