"""The matrix of gradients against autograd and explicit sums."""

import torch

from peft_unlearn.training.gradients import Gradients


def test_rows_accumulate_what_autograd_gives_each_objective():
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    losses = [lambda: (parameters[0] ** 2).sum(), lambda: (parameters[0].sum() * parameters[1].sum()) ** 2]
    gradients = Gradients(parameters, 2)
    for _ in range(2):  # two micro-batches
        for k, loss in enumerate(losses):
            gradients.into(k)
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
    assert torch.allclose(gradients.matrix, expected)
    assert torch.allclose(gradients.gramian(), expected.double() @ expected.double().T)
    weights = torch.tensor([0.3, -2.0], dtype=torch.float64)
    flat = gradients.combined(weights)
    assert torch.allclose(flat, (0.3 * expected[0] - 2.0 * expected[1]))
    gradients.set(flat)
    assert torch.equal(torch.cat([p.grad.flatten() for p in parameters]), flat)


def test_sum_of_nearly_parallel_gradients_keeps_its_direction():
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(200_000))
    a = torch.randn(200_000)
    b = a + 1e-3 * torch.randn(200_000)
    gradients = Gradients([parameter], 2)
    gradients.matrix.copy_(torch.stack([a, b]))
    weights = torch.tensor([1e6, -1e6], dtype=torch.float64)
    exact = 1e6 * (gradients.matrix[0].double() - gradients.matrix[1].double())
    assert ((gradients.combined(weights).double() - exact).norm() / exact.norm()).item() < 1e-6
