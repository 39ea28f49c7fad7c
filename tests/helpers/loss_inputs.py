"""One of everything that a loss can read, and short hands to call a loss and to take its gradient."""

import torch

from peft_unlearn.losses import LOSSES

B, T, T2, V, H = 4, 7, 5, 11, 16


def inputs(dtype=torch.float64):
    """All rows are ragged, and none of them alike."""
    lengths = torch.tensor([T, 1, 4, 3])
    alt_lengths = torch.tensor([2, T2, 1, 3])
    mask = torch.arange(T) < lengths[:, None]
    n = int(mask.sum())
    values = {
        "logps": -3 * torch.rand(B, T),
        "ref_logps": -3 * torch.rand(B, T),
        "alt_logps": -3 * torch.rand(B, T2),
        "alt_ref_logps": -3 * torch.rand(B, T2),
        "logits": 3 * torch.randn(n, V),
        "ref_logits": 3 * torch.randn(n, V),
        "hidden": torch.randn(n, H),
        "ref_hidden": torch.randn(n, H),
    }
    fixed = {"mask": mask, "alt_mask": torch.arange(T2) < alt_lengths[:, None], "targets": torch.randint(0, V, (n,))}
    return {k: v.to(dtype) for k, v in values.items()} | fixed


def call(name, given, **parameters):
    loss = LOSSES[name]
    return loss.function(*(given[key] for key in loss.reads), **parameters)


def gradient(function, x):
    x = x.clone().requires_grad_()
    out = function(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    return out.detach(), grad


def close(actual, expected, rtol=1e-9, atol=1e-12):
    torch.testing.assert_close(actual.double(), torch.as_tensor(expected, dtype=torch.float64), rtol=rtol, atol=atol)
