"""The automatic learning rate against line searches, and its guards against what sends a rate astray."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from peft_unlearn.training.auto_lr import HALF_NOISE, HIGHEST, LOWEST, SMOOTHING, AutoLR, noise, ratio


def loss_along(lr: float, best: float):
    """A retain loss, rounded as fp32 rounds it, whose minimum lies where the rate is `best`. Returns `loss_at` of a step at rate `lr`."""
    return lambda x: float(np.float32(0.2 + 0.1 * ((x * lr / best - 1) ** 2 + 0.01 * (x * lr / best - 1) ** 4)))


def line_search(loss_at, low: float, high: float) -> float:
    """Golden section: no parabola in it."""
    golden = (math.sqrt(5) - 1) / 2
    while high - low > 1e-9:
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss_at(left) < loss_at(right) else (left, high)
    return (low + high) / 2


@pytest.mark.parametrize("seed", range(5))
def test_step_agrees_with_a_line_search_on_a_quadratic_network_loss(seed):
    rng = np.random.default_rng(seed)
    design, target = rng.normal(size=(40, 12)), rng.normal(size=40)
    w = rng.normal(size=12)
    residual = design @ w - target
    step = -1e-3 * design.T @ residual
    loss_at = lambda x: float(np.mean((design @ (w + x * step) - target) ** 2))  # noqa: E731
    found = ratio(loss_at(1.0), loss_at(0.0), loss_at(-1.0))
    assert found == pytest.approx(line_search(loss_at, 0, 4 * found), rel=1e-2)


@pytest.mark.parametrize("seed", range(5))
def test_step_agrees_with_a_line_search_on_the_cross_entropy_of_a_classifier(seed):
    torch.manual_seed(seed)
    inputs, labels = torch.randn(200, 8, dtype=torch.float64), torch.randint(4, (200,))
    w = torch.zeros(8, 4, dtype=torch.float64, requires_grad=True)
    for _ in range(8):  # near the minimum, where training spends its time, the loss is a parabola to third order
        (gradient,) = torch.autograd.grad(F.cross_entropy(inputs @ w, labels), w)
        w.data -= 2.0 * gradient
    (gradient,) = torch.autograd.grad(F.cross_entropy(inputs @ w, labels), w)
    loss_at = lambda x: F.cross_entropy(inputs @ (w.detach() - x * 2.0 * gradient), labels).item()  # noqa: E731
    found = ratio(loss_at(1.0), loss_at(0.0), loss_at(-1.0))
    assert found == pytest.approx(line_search(loss_at, 0, 4 * found), rel=1e-2)


@pytest.mark.parametrize("start", [1e-6, 1e-4, 1e-3, 1e-1])
def test_calibration_ends_at_the_line_searchs_minimum_wherever_it_starts(start):
    best = 2e-3
    auto = AutoLR(maximum=1e-1, every=10)
    share, lr = auto.update(start, loss_along(start, best))
    assert auto.calibrated == lr
    assert lr == pytest.approx(share * start)
    assert lr == pytest.approx(best * line_search(loss_along(best, best), 0, 3), rel=0.1)


def test_calibration_from_any_start_gives_the_same_rate():
    rates = [AutoLR(1e-1, 10).update(start, loss_along(start, 2e-3))[1] for start in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)]
    assert max(rates) / min(rates) < 1.2


def test_calibrated_rate_moves_slowly_and_within_its_guards():
    auto = AutoLR(maximum=1.0, every=10, calibrated=1e-3)
    assert auto.update(1e-3, lambda x: (x - 7) ** 2) == (1.0, pytest.approx(1e-3 * (1 + SMOOTHING * (HIGHEST - 1))))
    assert auto.update(1e-3, lambda x: (x - 0.01) ** 2) == (1.0, pytest.approx(1e-3 * (1 + SMOOTHING * (LOWEST - 1))))


@pytest.mark.parametrize(
    "loss_at", [lambda x: 1 + x, lambda x: 1 - x, lambda x: 1 - x * x, lambda x: 1 + 1e-9 * (x - 2) ** 2, lambda x: 1.0, lambda x: math.nan]
)
def test_rate_is_kept_where_there_is_no_minimum_ahead(loss_at):
    calibrated = AutoLR(maximum=1.0, every=10, calibrated=1e-3)
    assert calibrated.update(1e-3, loss_at) == (1.0, 1e-3)
    fresh = AutoLR(maximum=1.0, every=10)
    assert fresh.update(1e-3, loss_at) == (1.0, 1e-3)
    assert not fresh.calibrated


@given(st.floats(1e-9, 10), st.floats(1e-9, 10), st.lists(st.floats(-5, 5), min_size=3, max_size=3))
def test_rate_stays_positive_and_under_its_maximum(lr, maximum, coefficients):
    loss_at = np.polynomial.Polynomial([1.0, *coefficients])
    for calibrated in (0.0, lr):
        share, after = AutoLR(maximum, 10, calibrated).update(lr, lambda x: float(loss_at(x)))
        assert 0 < after <= max(maximum, lr if calibrated else 0) * (1 + 1e-9)
        assert share > 0


def test_many_probes_cannot_carry_the_rate_away():
    auto = AutoLR(maximum=1.0, every=1, calibrated=1e-3)
    lr = 1e-3
    for _ in range(1000):
        lr = auto.update(lr, lambda x: (x - 7) ** 2)[1]  # the minimum always lies further out
    assert lr == pytest.approx(2e-3)


def test_probes_every_tenth_step_once_calibrated():
    assert [step for step in range(25) if AutoLR(1.0, 10, calibrated=1e-3).due(step)] == [0, 10, 20]
    assert [step for step in range(25) if AutoLR(1.0, 10).due(step)] == [*range(10), 10, 20]


def test_a_loss_that_is_known_is_not_asked_for():
    asked = []

    def loss_at(x):
        asked.append(x)
        return (x - 0.8) ** 2 + 1

    for calibrated in (0.0, 1e-3):
        known, unknown = AutoLR(1.0, 10, calibrated), AutoLR(1.0, 10, calibrated)
        found = known.update(1e-3, loss_at, loss_at(0.0))
        assert 0.0 not in asked[1:]
        assert found == unknown.update(1e-3, loss_at)
        asked.clear()


def test_in_16_bits_small_differences_are_rounding():
    """The loss jitters by 1e-3 of itself there, and a parabola through jitter has a minimum anywhere."""
    rng = np.random.default_rng(0)
    jitter = [0.2 * (1 + 1.2e-3 * rng.uniform(-1, 1, 3)) for _ in range(200)]
    assert any(ratio(*points) is not None for points in jitter)
    assert all(ratio(*points, noise(True)) is None for points in jitter)
    far = loss_along(1e-2, 1e-2)
    assert ratio(far(1.0), far(0.0), far(-1.0), HALF_NOISE) == pytest.approx(1.0, rel=0.1)
    assert noise(True) == HALF_NOISE > noise(False)
    tried = AutoLR(maximum=1.0, every=10, noise=noise(True))
    shares: list[float] = []

    def loss_at(x: float) -> float:
        shares.append(abs(x))
        return loss_along(1e-4, 1e-2)(x) * (1 + 1e-3 * rng.uniform(-1, 1))

    _, rate = tried.update(1e-4, loss_at)
    assert max(shares) >= 16  # it looks further out, where the differences are more than rounding
    assert tried.calibrated == rate == pytest.approx(1e-2, rel=0.5)
