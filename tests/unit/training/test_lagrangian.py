"""The lagrangian controller on problems whose multiplier is known in closed form."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_unlearn.training.lagrangian import Lagrangian

examples = settings(deadline=None, max_examples=40)


def solve(target, bound, start=0.0, rate=0.2, lr=0.1, steps=3000, noise=0.0, seed=0):
    """min ½||x - target||² s.t. ½||x||² <= bound, by gradient descent on x and lagrangian ascent on λ; x, λ and the mean λ of the last half."""
    rng, lagrangian, x = np.random.default_rng(seed), Lagrangian(start, bound, rate), np.array(target)
    path = []
    for _ in range(steps):
        x = x - lr * ((x - target) + lagrangian.multiplier * x) / (1 + lagrangian.multiplier)
        path.append(lagrangian.update(float(x @ x) / 2 + noise * rng.normal()))
    return x, lagrangian.multiplier, np.mean(path[steps // 2 :])


# From (x - a) + λx = 0 and ½||x||² = ε: x = a / (1 + λ), λ = ||a|| / sqrt(2ε) - 1, or 0 where a itself is within the bound.


@examples
@given(st.lists(st.floats(-2, 2), min_size=1, max_size=3).filter(lambda a: np.linalg.norm(a) > 0.1), st.floats(0.3, 3.0), st.floats(0, 3))
def test_it_comes_to_rest_at_the_kkt_multiplier(target, bound, start):
    target = np.array(target)
    x, multiplier, _ = solve(target, bound, start)
    expected = max(0.0, np.linalg.norm(target) / math.sqrt(2 * bound) - 1)
    assert multiplier == pytest.approx(expected, abs=5e-3)
    np.testing.assert_allclose(x, target / (1 + expected), atol=5e-3)


def test_a_constraint_that_does_not_bind_costs_nothing():
    x, multiplier, _ = solve(np.array([1.0, 1.0]), bound=2.0, start=3.0)
    assert multiplier == 0.0
    np.testing.assert_allclose(x, [1.0, 1.0], atol=1e-9)


def test_a_small_rate_averages_the_noise_of_the_batches():
    _, _, mean = solve(np.array([2.0]), bound=0.5, rate=0.02, steps=20000, noise=0.5)
    assert mean == pytest.approx(1.0, abs=0.03)


@examples
@given(st.floats(0, 10), st.floats(-5, 5), st.floats(0.001, 5), st.lists(st.floats(-10, 10), max_size=8))
def test_it_adds_up_what_the_losses_exceed_the_bound_by_and_stops_at_zero(start, bound, rate, losses):
    lagrangian = Lagrangian(start, bound, rate)
    expected = start
    for loss in losses:
        expected += rate * (loss - bound)
        if expected < 0:
            expected = 0.0
        assert lagrangian.update(loss) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert lagrangian.multiplier >= 0


def test_a_loss_at_its_bound_changes_nothing():
    assert Lagrangian(0.7, bound=2.0, rate=0.3).update(2.0) == 0.7


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_divergence_is_not_hidden(loss):
    lagrangian = Lagrangian(1.0, bound=1.0, rate=0.1)
    lagrangian.update(loss)
    assert not math.isfinite(lagrangian.update(1.0))
