"""Combiners by their properties, and against directions worked out from the gradients themselves, with projections and no Gram matrix."""

import ast
import doctest
import importlib
import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from combine_inputs import direction, unit, weights
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from peft_unlearn import combine
from peft_unlearn.combine import COMBINERS, mollm, ngdiff, weighted_sum
from peft_unlearn.combine.mollm import PARALLEL

examples = settings(deadline=None, max_examples=100)
seeds = st.integers(0, 2**32 - 1)
objectives = st.integers(1, 5)


def gradients(seed, m, n=40, spread=1.0):
    """(m, n) gradients in random directions with norms within `spread` decades of one another, and coefficients between .1 and 3."""
    rng = np.random.default_rng(seed)
    G = rng.normal(size=(m, n))
    G *= 10.0 ** rng.uniform(-spread, 0, size=(m, 1)) / np.linalg.norm(G, axis=1, keepdims=True)
    return G, rng.uniform(0.1, 3.0, size=m)


def fan(seed, m, angle, n=40):
    """(m, n) independent gradients that all lie within about `angle` of one axis, up to sign and length."""
    rng = np.random.default_rng(seed)
    G = rng.normal(size=n) + angle * math.sqrt(n) * np.linalg.qr(rng.normal(size=(n, m)))[0].T
    return G * rng.choice([-1.0, 1.0], size=(m, 1)) * rng.uniform(0.1, 1.0, size=(m, 1))


def well_apart(G):
    """Whether no gradients are so nearly dependent that `mollm` may take them as one direction."""
    singular = np.linalg.svd(G / np.linalg.norm(G, axis=1, keepdims=True), compute_uv=False)
    return (singular[-1] / singular[0]) ** 2 > PARALLEL


def mollm_by_projection(G, coefs):
    """The definition: each gradient less its least-squares fit by the others, as unit vectors, averaged and rescaled."""
    shares = coefs / coefs.sum()
    d = np.zeros(G.shape[1])
    for i, g in enumerate(G):
        others = np.delete(G, i, axis=0).T
        d += shares[i] * unit(g - others @ np.linalg.lstsq(others, g, rcond=None)[0])
    return d * np.linalg.norm(shares @ G) / np.linalg.norm(d)


# The definitions


@examples
@given(seeds, objectives)
def test_weighted_sum_is_the_gradient_of_the_weighted_losses(seed, m):
    G, coefs = gradients(seed, m)
    np.testing.assert_allclose(direction(weighted_sum, G, coefs), sum(c * g for c, g in zip(coefs, G, strict=True)), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(weights(weighted_sum, G), np.ones(m))


@examples
@given(seeds, objectives)
def test_ngdiff_is_the_sum_of_unit_gradients(seed, m):
    G, coefs = gradients(seed, m)
    np.testing.assert_allclose(direction(ngdiff, G, coefs), sum(c * unit(g) for c, g in zip(coefs, G, strict=True)), rtol=1e-9, atol=1e-12)


@examples
@given(seeds, objectives)
def test_mollm_equals_explicit_projections(seed, m):
    G, coefs = gradients(seed, m)
    assume(well_apart(G))
    np.testing.assert_allclose(direction(mollm, G, coefs), mollm_by_projection(G, coefs), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(direction(mollm, G), mollm_by_projection(G, np.ones(m)), rtol=1e-9, atol=1e-12)


@examples
@given(seeds, st.floats(1e-4, 5e-2), st.floats(0.1, 10.0))
def test_mollm_takes_nearly_parallel_gradients_as_one_and_still_lowers_both(seed, angle, ratio):
    rng = np.random.default_rng(seed)
    forget, retain = np.linalg.qr(rng.normal(size=(40, 2)))[0].T
    retain = unit(retain - 0.5 * forget)  # in conflict with forgetting, as they are
    kl = ratio * unit(retain + angle * unit(rng.normal(size=40)))
    d = unit(direction(mollm, np.stack([forget, retain, kl])))
    assert min(forget @ d, retain @ d, unit(kl) @ d) > 0.1  # held apart, retain·d would be of the size of the angle
    separate = unit(mollm_by_projection(np.stack([forget, retain, kl]), np.ones(3)))
    assert min(retain @ separate, unit(kl) @ separate) < 0.6 * min(retain @ d, unit(kl) @ d)


# What the papers promise


@examples
@given(seeds, st.floats(-0.999999, 0.999999))
def test_ngdiff_lowers_the_retain_loss_and_raises_the_forget_cross_entropy(seed, cosine):
    (g_R, noise), _ = gradients(seed, 2, spread=3.0)
    perpendicular = unit(noise - (noise @ unit(g_R)) * unit(g_R))
    g_F = np.linalg.norm(noise) * (cosine * unit(g_R) + math.sqrt(1 - cosine**2) * perpendicular)
    d = direction(ngdiff, np.stack([g_R, -g_F]))  # the forget loss to minimize is the negative cross-entropy
    assert g_R @ d > 0 > g_F @ d
    assert np.linalg.norm(d) == pytest.approx(math.sqrt(2 - 2 * cosine), rel=1e-6)


@examples
@given(seeds, objectives)
def test_mollm_lowers_every_loss(seed, m):
    G, coefs = gradients(seed, m, spread=3.0)
    assert (G @ direction(mollm, G, coefs) > 0).all()


@examples
@given(seeds, st.integers(2, 4), st.floats(-5, -1))
@example(seed=125662, m=4, exponent=-2.6015566725999553)  # two against two: what the first cutoff leaves is 1e-17, and no direction
def test_mollm_lowers_every_loss_however_parallel_or_opposed(seed, m, exponent):
    G = fan(seed, m, 10.0**exponent)
    d = direction(mollm, G)
    assert np.isfinite(d).all()
    assert (G @ d > 0).all()


@examples
@given(seeds, objectives)
def test_mollm_moves_as_far_as_the_mean_gradient(seed, m):
    G, coefs = gradients(seed, m)
    assert np.linalg.norm(direction(mollm, G)) == pytest.approx(np.linalg.norm(G.mean(axis=0)), rel=1e-9)
    assert np.linalg.norm(direction(mollm, G, coefs)) == pytest.approx(np.linalg.norm(coefs @ G / coefs.sum()), rel=1e-9)


@examples
@given(seeds, st.floats(1e-3, 1e3))
def test_mollm_of_one_objective_is_its_gradient(seed, coef):
    G, _ = gradients(seed, 1)
    np.testing.assert_allclose(direction(mollm, G, np.array([coef])), G[0], rtol=1e-12)


# Symmetries


SYMMETRIC = {
    name: combiner for name, combiner in COMBINERS.items() if name not in ("gru", "blur")
}  # in those, objective 0 is the forget side


@pytest.mark.parametrize("combiner", SYMMETRIC.values(), ids=SYMMETRIC)
@examples
@given(seeds, objectives)
def test_the_order_of_the_objectives_does_not_matter(combiner, seed, m):
    G, coefs = gradients(seed, m)
    order = np.random.default_rng(seed).permutation(m)
    np.testing.assert_allclose(weights(combiner, G[order], coefs[order]), weights(combiner, G, coefs)[order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("combiner", COMBINERS.values(), ids=COMBINERS)
@examples
@given(seeds, objectives)
def test_weights_depend_on_nothing_but_the_gram_matrix(combiner, seed, m):
    G, coefs = gradients(seed, m)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(60, 40)))[0]
    np.testing.assert_allclose(weights(combiner, G @ rotation.T, coefs), weights(combiner, G, coefs), rtol=1e-8, atol=1e-12)


@examples
@given(seeds, objectives, st.data())
def test_the_length_of_one_gradient_changes_neither_the_ngdiff_step_nor_the_mollm_direction(seed, m, data):
    G, coefs = gradients(seed, m)
    scaled = G.copy()
    scaled[data.draw(st.integers(0, m - 1))] *= 10.0 ** data.draw(st.floats(-2, 2))
    np.testing.assert_allclose(direction(ngdiff, scaled, coefs), direction(ngdiff, G, coefs), rtol=0, atol=1e-9)
    np.testing.assert_allclose(unit(direction(mollm, scaled, coefs)), unit(direction(mollm, G, coefs)), rtol=0, atol=1e-8)


@examples
@given(seeds, objectives, st.floats(-20, 20))
def test_a_common_scale_leaves_ngdiff_alone_and_scales_mollm_with_it(seed, m, exponent):
    G, coefs = gradients(seed, m)
    scale = 10.0**exponent
    np.testing.assert_allclose(direction(ngdiff, scale * G, coefs), direction(ngdiff, G, coefs), rtol=0, atol=1e-9)
    np.testing.assert_allclose(direction(mollm, scale * G, coefs) / scale, direction(mollm, G, coefs), rtol=0, atol=1e-9)


@examples
@given(seeds, objectives)
def test_only_the_proportions_of_the_coefficients_matter_to_mollm(seed, m):
    G, coefs = gradients(seed, m)
    np.testing.assert_allclose(weights(mollm, G, 7 * coefs), weights(mollm, G, coefs), rtol=1e-9)


# Gradients that are zero, dependent or broken


@pytest.mark.parametrize("combiner", [ngdiff, mollm], ids=["ngdiff", "mollm"])
@pytest.mark.parametrize("size", [0.0, 1e-12, 0.99e-4])
@examples
@given(seeds, st.integers(2, 5), st.data())
def test_a_gradient_of_mere_noise_is_left_out_and_the_rest_moves_as_without_it(combiner, size, seed, m, data):
    G, coefs = gradients(seed, m)
    k = data.draw(st.integers(0, m - 1))
    rest = np.delete(np.arange(m), k)
    G[k] *= size * np.linalg.norm(G[rest], axis=1).max() / np.linalg.norm(G[k])
    w = weights(combiner, G, coefs)
    assert w[k] == 0
    np.testing.assert_allclose(w[rest], weights(combiner, G[rest], coefs[rest]), rtol=1e-9, atol=1e-12)
    assert (w[rest] != 0).all()


@pytest.mark.parametrize("combiner", [ngdiff, mollm], ids=["ngdiff", "mollm"])
def test_a_small_but_real_gradient_still_counts(combiner):
    G, coefs = gradients(0, 3)
    G[1] *= 1.01e-4 * np.linalg.norm(G, axis=1).max() / np.linalg.norm(G[1])
    assert G[1] @ direction(combiner, G, coefs) > 0


@pytest.mark.parametrize("combiner", [ngdiff, mollm], ids=["ngdiff", "mollm"])
def test_an_objective_with_coefficient_zero_is_left_out(combiner):
    G, coefs = gradients(1, 3)
    G[1] *= 1e6  # nor may it make noise of the others
    coefs[1] = 0
    np.testing.assert_allclose(direction(combiner, G, coefs), direction(combiner, G[[0, 2]], coefs[[0, 2]]), rtol=1e-12)


@pytest.mark.parametrize("combiner", [ngdiff, mollm], ids=["ngdiff", "mollm"])
@pytest.mark.parametrize("m", [1, 3])
def test_without_any_gradient_nothing_moves(combiner, m):
    np.testing.assert_array_equal(weights(combiner, np.zeros((m, 4))), np.zeros(m))


@examples
@given(seeds, st.floats(0.1, 10))
def test_mollm_takes_parallel_gradients_as_one_direction(seed, ratio):
    (g,), coefs = gradients(seed, 1)[0], np.array([1.0, 2.0])
    d = direction(mollm, np.stack([g, ratio * g]), coefs)
    np.testing.assert_allclose(d, (1 + 2 * ratio) / 3 * g, rtol=1e-9)


@examples
@given(seeds, st.floats(0.1, 10))
def test_mollm_finds_no_common_descent_between_opposite_gradients(seed, ratio):
    (g,), _ = gradients(seed, 1)
    np.testing.assert_array_equal(weights(mollm, np.stack([g, -ratio * g])), np.zeros(2))


@examples
@given(seeds, st.integers(2, 5))
def test_mollm_rests_where_the_gradients_sum_to_zero(seed, m):
    G, _ = gradients(seed, m)
    d = direction(mollm, np.vstack([G, -G.sum(axis=0)]))
    np.testing.assert_allclose(d, 0.0, atol=1e-7)


@examples
@given(seeds, st.floats(0.1, 10))
def test_mollm_lowers_the_independent_loss_and_holds_two_opposite_ones(seed, ratio):
    (g, h), _ = gradients(seed, 2)
    d = direction(mollm, np.stack([g, -ratio * g, h]))
    assert h @ d > 0
    assert abs(unit(g) @ unit(d)) < 1e-6


@examples
@given(seeds, st.floats(0.1, 10))
def test_mollm_lowers_two_parallel_losses_and_a_third(seed, ratio):
    (g, h), _ = gradients(seed, 2)
    d = direction(mollm, np.stack([g, ratio * g, h]))
    assert unit(g) @ unit(d) > 1e-6
    assert h @ d > 0


@pytest.mark.parametrize("combiner", COMBINERS.values(), ids=COMBINERS)
@pytest.mark.parametrize("m", [1, 2, 3])
def test_a_divergence_is_not_hidden(combiner, m):
    for broken, (i, j) in itertools.product((math.nan, math.inf, -math.inf), itertools.product(range(m), repeat=2)):
        gramian = torch.eye(m, dtype=torch.float64)
        gramian[i, j] = gramian[j, i] = broken
        assert not combiner(gramian).isfinite().any()
        assert not combiner(gramian, torch.zeros(m)).isfinite().any()


# The contract


@pytest.mark.parametrize("combiner", COMBINERS.values(), ids=COMBINERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_weights_are_fp64_and_the_arguments_untouched(combiner, dtype):
    gramian, coefs = torch.tensor([[2.0, -1.0], [-1.0, 3.0]], dtype=dtype), torch.tensor([0.5, 1.0])
    before = gramian.clone(), coefs.clone()
    w = combiner(gramian, coefs)
    w += 1
    assert w.dtype == torch.float64
    assert w.shape == (2,)
    assert torch.equal(gramian, before[0])
    assert torch.equal(coefs, before[1])


def test_the_package_docstring_tells_the_truth():
    result = doctest.testmod(combine)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", COMBINERS.own)
def test_so_does_the_docstring_of_each_combiner(name):
    """`help` finds it under the function's own name, whatever wraps it."""
    combiner = getattr(combine, name)
    assert (combiner.__name__, combiner.__module__) == (name, f"peft_unlearn.combine.{name}")
    (test,) = doctest.DocTestFinder(recurse=False).find(combiner, name, globs=vars(importlib.import_module(combiner.__module__)).copy())
    result = doctest.DocTestRunner().run(test)
    assert result.attempted > 0
    assert result.failed == 0


def test_type_checkers_see_every_combiner_under_its_name():
    tree = ast.parse(inspect.getsource(combine))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = [(node.module, alias.name, alias.asname) for node in block.body for alias in node.names]
    assert seen == [(f"peft_unlearn.combine.{name}", name, name) for name in sorted(COMBINERS.own)]
    assert set(COMBINERS.own) <= set(combine.__all__) <= set(dir(combine))
