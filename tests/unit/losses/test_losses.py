"""Losses against their closed forms in 60-digit decimal arithmetic, over the full range of probabilities."""

import ast
import doctest
import importlib
import inspect
import math
from decimal import Decimal, getcontext
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_unlearn import losses
from peft_unlearn.losses import LOSSES, ga, nll, nlul, npo, uce

getcontext().prec = 60
ONE = Decimal(1)
EPS = torch.finfo(torch.float32).eps


def closed_nlul(tol):
    tol = Decimal(str(tol))
    return lambda p: -(ONE + tol - p).ln(), lambda p: p / (ONE + tol - p)


# name: (loss, its value as a function of p, its derivative with respect to log p, absolute tolerance of the value)
# 1e-8 where the value passes 0, at p = tol: fp32 knows p - tol no better
TOKEN_LOSSES = {
    "ga": (ga, lambda p: p.ln(), lambda p: ONE, 0.0),
    "nll": (nll, lambda p: -p.ln(), lambda p: -ONE, 0.0),
    "nlul": (nlul, *closed_nlul(0.02), 1e-8),
    "nlul-tol-0": (partial(nlul, tol=0.0), *closed_nlul(0), 0.0),
    "nlul-tol-0.1": (partial(nlul, tol=0.1), *closed_nlul(0.1), 1e-8),
    "uce": (uce, lambda p: -(ONE - p / 2).ln(), lambda p: p / (2 - p), 0.0),
}
each_loss = pytest.mark.parametrize(("loss", "value", "slope", "atol"), TOKEN_LOSSES.values(), ids=TOKEN_LOSSES)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)

UNLIKELY = [Decimal(10) ** -k for k in range(1, 31)]
LIKELY = [ONE - Decimal(10) ** -k for k in range(1, 13)]
BETWEEN = [Decimal(i) / 40 for i in range(1, 40)]


def value_and_gradient(function, x):
    x = x.clone().requires_grad_()
    out = function(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    return out.detach(), grad


def fp64(numbers):
    return torch.tensor([float(x) for x in numbers], dtype=torch.float64)


def true_token_gradient(loss, p, others=63, dtype=torch.float64):
    """d loss / d logits of a (1, V) row of logits in which token 0 has probability `p` and the others share the rest."""
    logits = torch.zeros(1, others + 1, dtype=torch.float64)
    logits[0, 0] = float(((p / (ONE - p)) * others).ln())
    return value_and_gradient(lambda z: loss(z.log_softmax(-1)[:, 0]), logits.to(dtype))[1]


@each_loss
@each_dtype
def test_value_and_gradient_equal_the_closed_form_over_the_full_range(loss, value, slope, atol, dtype):
    logps = torch.tensor([float(p.ln()) for p in UNLIKELY + BETWEEN + LIKELY], dtype=dtype)
    exact = [Decimal(x).exp() for x in logps.tolist()]  # the probabilities that the rounded inputs stand for
    out, grad = value_and_gradient(loss, logps)
    torch.testing.assert_close(out.double(), fp64(map(value, exact)), rtol=1e-6, atol=atol)
    torch.testing.assert_close(grad.double(), fp64(map(slope, exact)), rtol=1e-6, atol=0.0)


@each_loss
def test_logit_gradients_equal_the_closed_form(loss, value, slope, atol):
    for p in UNLIKELY + BETWEEN + LIKELY[:8]:  # beyond, the softmax itself has lost 1 - p
        grad = true_token_gradient(loss, p)[0]
        torch.testing.assert_close(grad[0], fp64([slope(p) * (ONE - p)])[0], rtol=1e-6, atol=0.0)
        torch.testing.assert_close(grad[1:], fp64([-slope(p) * (ONE - p) / 63] * 63), rtol=1e-6, atol=0.0)


@each_loss
def test_fp32_logit_gradients_equal_the_closed_form_to_the_rounding_of_the_softmax(loss, value, slope, atol):
    for p in UNLIKELY + BETWEEN + LIKELY[:4]:
        grad = true_token_gradient(loss, p, dtype=torch.float32)[0, 0].item()
        # the logits carry an error of |z| * eps / 2 into p, and the softmax one of eps into 1 - p
        assert abs(grad - float(slope(p) * (ONE - p))) <= float(abs(slope(p))) * 40 * EPS


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (ga, (0.10, 0.01, 0.001)),
        (partial(nlul, tol=0.0), (0.90, 0.99, 0.999)),
        (nlul, (0.75, 0.33, 0.048)),
        (uce, (0.082, 0.0098, 0.001)),
    ],
    ids=["LL", "NLUL", "NLUL with tol", "UCE"],
)
def test_pull_on_memorized_tokens_is_that_of_the_papers(loss, expected):
    for p, pull in zip(("0.9", "0.99", "0.999"), expected, strict=True):
        assert true_token_gradient(loss, Decimal(p))[0, 0].item() == pytest.approx(pull, rel=0.01)


def test_uce_is_bounded_and_pulls_hardest_at_its_published_maximum():
    assert uce(torch.tensor([-70.0, 0.0], dtype=torch.float64)).tolist() == pytest.approx([0.0, math.log(2)])
    pulls = [true_token_gradient(uce, Decimal(i) / 1000)[0, 0].item() for i in range(1, 1000)]
    assert max(pulls) == pytest.approx(0.172, abs=5e-4)
    assert pulls.index(max(pulls)) + 1 == 586


@each_loss
@pytest.mark.parametrize("logp", [-1e-42, -1e-20, 0.0, 1e-12, EPS / 2, EPS, 1e-6])
def test_a_probability_rounded_to_one_or_above_is_finite_and_keeps_its_gradient(loss, value, slope, atol, logp):
    out, grad = value_and_gradient(loss, torch.tensor([logp]))
    assert out.isfinite().all()
    assert 0 < grad.abs().item() <= 1.0001 / EPS
    assert math.copysign(1.0, grad.item()) == math.copysign(1.0, slope(Decimal("0.5")))


def test_nlul_at_certainty_pulls_with_one_over_tol():
    assert value_and_gradient(nlul, torch.zeros(1))[1].item() == pytest.approx(50, rel=1e-6)
    assert value_and_gradient(partial(nlul, tol=0.0), torch.zeros(1))[1].item() == pytest.approx(1 / EPS, rel=1e-6)


@each_loss
@settings(deadline=None, max_examples=60)
@given(logps=st.lists(st.floats(-70, 2**-20, width=32), min_size=1, max_size=8))
def test_every_log_probability_gives_finite_values_and_gradients(loss, value, slope, atol, logps):
    out, grad = value_and_gradient(loss, torch.tensor(logps))
    assert out.shape == grad.shape == (len(logps),)
    assert out.isfinite().all()
    assert grad.isfinite().all()


@each_loss
@settings(deadline=None, max_examples=60)
@given(logits=st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=16))
def test_the_pull_on_a_logit_is_bounded_next_to_certainty_too(loss, value, slope, atol, logits):
    _, grad = value_and_gradient(lambda z: loss(z.log_softmax(-1)[0]), torch.tensor(logits))
    assert grad.abs().max() <= 1.51  # and not 1: next to certainty fp32 rounds 1 - p to whole eps, 1.5 of them to one


def test_a_divergence_is_not_hidden():
    for loss, *_ in TOKEN_LOSSES.values():
        assert loss(torch.tensor([float("nan")])).isnan().all()


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
@each_dtype
def test_npo_equals_its_closed_form(beta, dtype):
    torch.manual_seed(0)
    logps = (-3 * torch.rand(6, 9, dtype=torch.float64)).to(dtype)
    logps[0] -= 7.0  # nearly forgotten
    logps[1, 0] = math.log(1e-30)
    ref = (-3 * torch.rand(6, 9, dtype=torch.float64)).to(dtype)
    mask = torch.rand(6, 9) < 0.7
    out, grad = value_and_gradient(lambda x: npo(x, ref, mask, beta=beta), logps)
    for row in range(6):
        ratio = sum(Decimal(logps[row, t].item()) - Decimal(ref[row, t].item()) for t in range(9) if mask[row, t])
        log_odds = (Decimal(str(beta)) * ratio).exp()  # (p / p_ref)^beta
        value = 2 / Decimal(str(beta)) * (ONE + log_odds).ln()
        slope = float(2 * log_odds / (ONE + log_odds))
        accuracy = 1e-6 * max(1.0, float(abs(ratio)) * beta)  # what the rounding of the sum makes of a far ratio
        assert out[row].item() == pytest.approx(float(value), rel=accuracy)
        torch.testing.assert_close(grad[row], slope * mask[row].to(dtype), rtol=accuracy, atol=0.0)


def test_npo_starts_as_gradient_ascent():
    logps, mask = torch.log(torch.rand(4, 7)), torch.rand(4, 7) < 0.6
    out, grad = value_and_gradient(lambda x: npo(x, logps, mask, beta=0.1), logps)
    torch.testing.assert_close(out, torch.full((4,), 20 * math.log(2)), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(grad, mask.float(), rtol=1e-6, atol=0.0)


def test_npo_of_the_mean_is_npo_of_one_token_with_the_mean_log_ratio():
    logps, ref, mask = torch.log(torch.rand(4, 7)), torch.log(torch.rand(4, 7)), torch.rand(4, 7) < 0.6
    mask[:, 0] = True
    ratio = torch.stack([(a - b)[m].mean() for a, b, m in zip(logps, ref, mask, strict=True)])[:, None]
    expected = npo(ratio, torch.zeros_like(ratio), torch.ones_like(ratio))
    torch.testing.assert_close(npo(logps, ref, mask, mean=True), expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("padding", [-5.0, -math.inf, math.nan])
def test_npo_does_not_read_padding(padding):
    torch.manual_seed(0)
    logps, ref = -torch.rand(3, 5), -torch.rand(3, 5)
    mask = torch.ones(3, 5, dtype=torch.bool)
    padded = [torch.nn.functional.pad(x, (0, 4), value=v) for x, v in ((logps, padding), (ref, padding), (mask, False))]
    out, grad = value_and_gradient(lambda x: npo(x, ref, mask), logps)
    padded_out, padded_grad = value_and_gradient(lambda x: npo(x, *padded[1:]), padded[0])
    assert torch.equal(out, padded_out)
    assert torch.equal(torch.nn.functional.pad(grad, (0, 4)), padded_grad)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(-70, 0, width=32), st.floats(-70, 0, width=32)), min_size=1, max_size=64))
def test_npo_is_finite_from_one_end_to_the_other(pairs):
    logps, ref = torch.tensor(pairs).T[:, None]
    out, grad = value_and_gradient(lambda x: npo(x, ref, torch.ones_like(x)), logps)
    assert out.isfinite().all()
    assert grad.isfinite().all()


def test_the_package_docstring_tells_the_truth():
    result = doctest.testmod(losses)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", LOSSES.own)
def test_so_does_the_docstring_of_each_loss(name):
    """`help` finds it under the function's own name, whatever wraps it."""
    loss = getattr(losses, name)
    assert (loss.__name__, loss.__module__) == (name, f"peft_unlearn.losses.{name}")
    (test,) = doctest.DocTestFinder(recurse=False).find(loss, name, globs=vars(importlib.import_module(loss.__module__)).copy())
    result = doctest.DocTestRunner().run(test)
    assert result.attempted > 0
    assert result.failed == 0


def test_type_checkers_see_every_loss_under_its_name():
    tree = ast.parse(inspect.getsource(losses))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = [(node.module, alias.name, alias.asname) for node in block.body for alias in node.names]
    assert seen == [(f"peft_unlearn.losses.{name}", name, name) for name in sorted(LOSSES.own)]
    assert set(LOSSES.own) <= set(losses.__all__) <= set(dir(losses))
