"""Weights, norm and clip of a step against explicit vectors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_unlearn.combine import COMBINERS
from peft_unlearn.training.combine_step import combine_step, described


def gradients(seed: int, rows: int = 3, columns: int = 7) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gramian(g: torch.Tensor) -> torch.Tensor:
    return g @ g.T


def test_a_sum_is_weighted_by_its_coefficients_and_cut_to_the_longest_step():
    orthogonal = torch.diag(torch.tensor([4.0, 9.0], dtype=torch.float64))  # |g1| = 2, |g2| = 3
    step = combine_step(orthogonal, [1.0, 2.0], combiner="weighted_sum", max_grad_norm=1.0)
    assert step.weights.tolist() == [1.0, 2.0]
    assert step.norm.item() == pytest.approx(math.sqrt(4 + 4 * 9))
    assert step.clip == pytest.approx(1 / math.sqrt(40))


@pytest.mark.parametrize(("longest", "clip"), [(0.0, 1.0), (100.0, 1.0), (0.5, 0.25)])
def test_a_step_is_cut_only_where_it_is_longer_than_the_longest(longest, clip):
    step = combine_step(torch.tensor([[4.0]], dtype=torch.float64), [1.0], combiner="weighted_sum", max_grad_norm=longest)
    assert step.clip == clip


@pytest.mark.parametrize("combiner", COMBINERS)
def test_gradients_of_zero_give_a_step_of_zero_that_is_not_cut(combiner):
    step = combine_step(torch.zeros(2, 2, dtype=torch.float64), [1.0, 1.0], combiner=combiner, max_grad_norm=1.0)
    assert (step.norm.item(), step.clip) == (0.0, 1.0)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 99), st.sampled_from(sorted(set(COMBINERS) - {"pcgrad"})), st.floats(0.1, 10), st.sampled_from([2.0, 1024.0, 65536.0])
)
def test_the_norm_is_that_of_the_combined_gradient_whatever_a_scaler_makes_of_it(seed, combiner, coefficient, scale):
    g, coefficients = gradients(seed), [coefficient, 1.0, 0.5]
    step = combine_step(gramian(g), coefficients, combiner=combiner, max_grad_norm=0.3)
    assert step.norm.item() == pytest.approx((step.weights @ g).norm().item(), rel=1e-6)
    assert (step.clip * step.weights @ g).norm().item() <= 0.3 * (1 + 1e-6)
    scaled = combine_step(gramian(scale * g), coefficients, combiner=combiner, max_grad_norm=0.3, scale=scale)
    torch.testing.assert_close(scaled.weights, step.weights)
    assert (scaled.norm.item(), scaled.clip) == pytest.approx((step.norm.item(), step.clip))


@pytest.mark.parametrize("missing", [1.0, 0.25, 0.0])
def test_unit_vectors_pull_towards_targets_by_the_root_of_what_is_missing_and_other_gradients_as_they_are(missing):
    g = gradients(1, rows=2)
    how = {"max_grad_norm": 0.0, "missing": torch.tensor(missing, dtype=torch.float64)}
    unit = combine_step(gramian(g), [0.7, 1.0], combiner="ngdiff", **how)
    assert (unit.weights[0] * g[0]).norm().item() == pytest.approx(0.7 * math.sqrt(missing))
    assert (unit.weights[1] * g[1]).norm().item() == pytest.approx(1.0)
    assert combine_step(gramian(g), [0.7, 1.0], combiner="weighted_sum", **how).weights.tolist() == [0.7, 1.0]


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_what_is_logged_are_norms_weights_and_cosines_of_the_gradients(scale):
    g, weights = gradients(2), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    found = described(gramian(scale * g), weights, ["forget", "retain", "kl"], scale)
    cosines = {name: torch.nn.functional.cosine_similarity(g[0], g[k], 0).item() for k, name in ((1, "retain"), (2, "kl"))}
    expected = {f"grad_norm/{name}": g[k].norm().item() for k, name in enumerate(("forget", "retain", "kl"))}
    expected |= {"weight/forget": 1.0, "weight/retain": 2.0, "weight/kl": 3.0}
    expected |= {f"cosine/forget_{name}": cosine for name, cosine in cosines.items()}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)
