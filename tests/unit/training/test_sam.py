"""The step of relearning: it teaches, its length is what was asked for, and the adapter comes back bit for bit."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from peft_unlearn.training.sam import Sam

numbers = st.floats(-5, 5, width=32)


def at_ones() -> tuple[nn.Parameter, Sam]:
    """An adapter that started at 0 and is at 1 now."""
    adapter = nn.Parameter(torch.zeros(3))
    sam = Sam([adapter], [adapter], 0.5)
    adapter.data.fill_(1.0)
    return adapter, sam


@settings(deadline=None, max_examples=50)
@given(st.lists(numbers, min_size=7, max_size=7), st.lists(numbers, min_size=7, max_size=7), st.floats(0.01, 1.0))
def test_the_step_goes_down_the_gradient_for_a_share_of_how_far_the_adapter_has_come(values, gradient, radius):
    parameters = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(1))]
    sam = Sam(parameters, parameters[:1], radius)
    kept = [torch.tensor(values[:6]).reshape(2, 3), torch.tensor(values[6:])]
    torch._foreach_copy_([p.data for p in parameters], kept)
    sam.gradient += torch.tensor(gradient)
    with sam.perturbed():
        moved = torch.cat([(p - k).flatten() for p, k in zip(parameters, kept, strict=True)]).detach().double()
    assert all(torch.equal(p, k) for p, k in zip(parameters, kept, strict=True))
    norm, length = math.hypot(*gradient), radius * math.hypot(*values[:6])
    expected = [-length * g / norm for g in gradient] if norm > 1e-30 else [0.0] * 7
    assert moved.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("overflowed", [math.inf, -math.inf, math.nan])
def test_what_overflowed_points_nowhere(overflowed):
    adapter, sam = at_ones()
    sam.gradient[0] = overflowed
    with sam.perturbed():
        assert torch.equal(adapter, torch.ones(3))


def test_the_adapter_comes_back_where_the_loss_fails():
    adapter, sam = at_ones()
    sam.gradient.fill_(1.0)
    with pytest.raises(ZeroDivisionError), sam.perturbed():
        assert not torch.equal(adapter, torch.ones(3))
        1 / 0  # noqa: B018
    assert torch.equal(adapter, torch.ones(3))


def test_a_gradient_serves_one_step():
    _, sam = at_ones()
    sam.gradient.fill_(1.0)
    sam.end(perturbed=False)
    assert sam.gradient.tolist() == [1, 1, 1]
    sam.end(perturbed=True)
    assert sam.gradient.tolist() == [0, 0, 0]


@settings(deadline=None, max_examples=50)
@given(st.lists(numbers, min_size=4, max_size=4), st.lists(numbers, min_size=4, max_size=4))
def test_how_far_an_adapter_has_come_is_told_from_where_it_started(start, now):
    """A continued adapter, or one of orthogonal init, starts with a B that is not 0."""
    adapter = nn.Parameter(torch.tensor(start))
    sam = Sam([adapter], [adapter], 0.5)
    sam.gradient[1] = 3.0
    adapter.data = torch.tensor(now)
    with sam.perturbed():
        moved = adapter.detach() - torch.tensor(now)
    distance = math.dist(start, now)
    assert moved.tolist() == pytest.approx([0.0, -0.5 * distance, 0.0, 0.0], rel=1e-3, abs=1e-5)
