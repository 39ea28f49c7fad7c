"""The matrix of gradients against autograd and explicit sums."""

from itertools import permutations

import pytest
import torch

from peft_unlearn import UnlearnConfig
from peft_unlearn.training.gradients import Gradients, dtype_of_sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_sum_up_what_autograd_gives_each_objective(dtype):
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    losses = [lambda: (parameters[0] ** 2).sum(), lambda: (parameters[0].sum() * parameters[1].sum()) ** 2]
    gradients = Gradients(parameters, 2, dtype)
    for _ in range(2):  # two micro-batches
        for k, loss in enumerate(losses):
            with gradients.into(gradients.matrix[k]):
                loss().backward()
    expected = torch.stack(
        [
            torch.cat(
                [2 * g.flatten() for g in torch.autograd.grad(loss(), parameters, allow_unused=True) if g is not None]
                + [torch.zeros(5)] * (k == 0)
            )
            for k, loss in enumerate(losses)
        ]
    )
    assert torch.allclose(gradients.matrix, expected.to(dtype))
    assert torch.allclose(gradients.gramian(), expected.double() @ expected.double().T)
    views = gradients.combine(torch.tensor([0.3, -2.0], dtype=torch.float64))
    assert torch.allclose(torch.cat([view.flatten() for view in views]), (0.3 * expected[0] - 2.0 * expected[1]))
    assert all(p.grad is view for p, view in zip(parameters, views, strict=True))


def test_a_pass_that_fails_adds_nothing():
    parameter = torch.nn.Parameter(torch.ones(3))
    gradients = Gradients([parameter], 1)
    with pytest.raises(ZeroDivisionError), gradients.into(gradients.matrix[0]):
        parameter.sum().backward()
        1 / 0  # noqa: B018
    with gradients.into(gradients.matrix[0]):
        (2 * parameter).sum().backward()
    assert gradients.matrix.tolist() == [[2.0, 2.0, 2.0]]


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_the_order_of_micro_batches_does_not_matter(micro_batches):
    """In fp32 it does, of four: this is what is asked below of the same numbers."""
    torch.manual_seed(0)
    given = torch.randn(micro_batches, 5000)
    dtype = dtype_of_sums(UnlearnConfig("out", gradient_accumulation_steps=micro_batches, use_cpu=True))

    def added(order, dtype):
        parameter = torch.nn.Parameter(torch.zeros(5000))
        gradients = Gradients([parameter], 1, dtype)
        for i in order:
            with gradients.into(gradients.matrix[0]):
                (parameter * given[i]).sum().backward()
        return gradients.combine(torch.ones(1, dtype=torch.float64))[0]

    orders = list(permutations(range(micro_batches)))
    assert all(torch.equal(added(order, dtype), added(orders[0], dtype)) for order in orders)
    assert all(torch.equal(added(order, None), added(orders[0], None)) for order in orders) == (micro_batches == 2)


def test_sum_of_nearly_parallel_gradients_keeps_its_direction():
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(200_000))
    a = torch.randn(200_000)
    b = a + 1e-3 * torch.randn(200_000)
    gradients = Gradients([parameter], 2)
    gradients.matrix.copy_(torch.stack([a, b]))
    weights = torch.tensor([1e6, -1e6], dtype=torch.float64)
    exact = 1e6 * (gradients.matrix[0].double() - gradients.matrix[1].double())
    assert ((gradients.combine(weights)[0].double() - exact).norm() / exact.norm()).item() < 1e-6
