"""The baselines' losses of log-probabilities against closed forms or plain loops, their limits, and what must not change them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_inputs import T2, B, T, call, close, gradient, inputs

from peft_unlearn.losses import LOSSES, dpo, ga, nll, npo, satimp, simnpo, wga

PER_SEQUENCE = ("simnpo", "dpo")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# ---------------------------------------------------------------------------------------------------------------- the registry


def test_the_registry_says_what_each_loss_reads():
    assert LOSSES["npo"].reads == ("logps", "ref_logps", "mask")
    assert LOSSES["dpo"].reads == ("logps", "ref_logps", "mask", "alt_logps", "alt_ref_logps", "alt_mask")
    assert LOSSES["undial"].reads == ("logits", "targets", "ref_logits")
    assert {name for name, loss in LOSSES.items() if loss.reference} == {"npo", "dpo", "undial"}
    assert {name for name, loss in LOSSES.items() if loss.alternate} == {"dpo"}
    assert {name for name, loss in LOSSES.items() if loss.hidden} == {"rmu"}
    assert {name for name, loss in LOSSES.items() if loss.per == "sequence"} == {"npo", "simnpo", "dpo"}
    assert {name for name, loss in LOSSES.items() if not loss.lowers} == {"nll", "rmu", "logit_margin"}


@pytest.mark.parametrize("name", LOSSES)
def test_every_registered_loss_is_called_by_name_and_returns_the_shape_it_declares(name):
    loss, values = LOSSES[name], inputs()
    first = values[loss.reads[0]]
    out = call(name, values)
    assert out.shape == ((B,) if loss.per == "sequence" else first.shape if loss.reads[0] == "logps" else first.shape[:1])
    assert out.dtype == torch.float64


@pytest.mark.parametrize("name", LOSSES)
def test_a_divergence_is_not_hidden(name):
    loss, values = LOSSES[name], inputs()
    values[loss.reads[0]][0, 0] = math.nan
    assert call(name, values).flatten()[0].isnan()


# ---------------------------------------------------------------------------------------------------------------- weighted ascent


@pytest.mark.parametrize(("beta1", "beta2"), [(0.0, 0.0), (1.0, 0.0), (0.5, 0.0), (5.0, 1.0), (2.0, 0.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_weighted_ascent_has_its_weight_as_gradient_from_p_0_to_p_1(beta1, beta2, dtype):
    p = [1e-30, 1e-12, 1e-3, 0.1, 0.5, 5 / 6, 0.9, 0.999, 1 - 1e-6]
    logps = torch.tensor([math.log(x) for x in p], dtype=torch.float64).to(dtype)
    exact = [(x, math.exp(x), -math.expm1(x)) for x in logps.tolist()]
    weights = [known**beta1 * unknown**beta2 for _, known, unknown in exact]
    out, grad = gradient(lambda x: satimp(x, beta1=beta1, beta2=beta2), logps)
    rtol = 1e-12 if dtype == torch.float64 else 1e-5  # what fp32's rounding of 5 log p makes of a power of 1e-30
    close(grad, weights, rtol)
    close(out, [w * x for w, (x, _, _) in zip(weights, exact, strict=True)], rtol)
    if beta2 == 0:
        close(gradient(lambda x: wga(x, beta=beta1), logps)[1], weights, rtol)


def test_weighted_ascent_without_its_weight_is_gradient_ascent():
    logps = -torch.rand(B, T)
    assert torch.equal(wga(logps, beta=0.0), ga(logps))
    assert torch.equal(satimp(logps, beta1=0.0, beta2=0.0), ga(logps))
    assert torch.equal(satimp(logps, beta1=2.0, beta2=0.0), wga(logps, beta=2.0))


def test_satimp_weighs_most_where_its_docstring_says():
    p = torch.arange(1, 1000, dtype=torch.float64) / 1000
    _, weights = gradient(satimp, p.log())
    assert weights.argmax().item() + 1 == round(1000 * 5 / 6)
    assert weights.max().item() == pytest.approx(0.067, abs=1e-4)


@pytest.mark.parametrize("logp", [0.0, 1e-7, 1e-6])
def test_a_probability_rounded_to_one_or_above_is_finite(logp):
    for loss in (wga, lambda x: satimp(x, beta2=0.5)):
        out, grad = gradient(loss, torch.tensor([logp]))
        assert out.isfinite().all()
        assert grad.isfinite().all()
        assert grad.item() >= 0


# ---------------------------------------------------------------------------------------------------------------- per sequence


@pytest.mark.parametrize(("beta", "gamma"), [(4.5, 0.0), (2.5, 1.25), (0.1, 0.0)])
def test_simnpo_equals_its_closed_form(beta, gamma):
    values = inputs()
    logps, mask = values["logps"], values["mask"]
    out, grad = gradient(lambda x: simnpo(x, mask, beta=beta, gamma=gamma), logps)
    for i in range(B):
        tokens = [logps[i, t].item() for t in range(T) if mask[i, t]]
        odds = math.exp(beta * sum(tokens) / len(tokens) + gamma)
        assert out[i].item() == pytest.approx(2 / beta * math.log(1 + odds), rel=1e-12)
        close(grad[i], [2 * odds / (1 + odds) / len(tokens) if mask[i, t] else 0.0 for t in range(T)])


def test_simnpo_does_not_care_how_often_a_text_repeats():
    logps = -torch.rand(B, T, dtype=torch.float64)
    ones = torch.ones(B, T)
    close(simnpo(logps.repeat(1, 3), ones.repeat(1, 3)), simnpo(logps, ones))


def test_simnpo_is_npo_of_the_mean_beside_a_certain_reference():
    values = inputs()
    mask, logps = values["mask"], values["logps"]
    close(simnpo(logps, mask, beta=0.3), npo(logps, torch.zeros_like(logps), mask, beta=0.3, mean=True))


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_dpo_equals_its_closed_form(beta):
    values = inputs()
    leaves = [values[k].clone().requires_grad_() for k in ("logps", "alt_logps")]
    out = dpo(leaves[0], values["ref_logps"], values["mask"], leaves[1], values["alt_ref_logps"], values["alt_mask"], beta=beta)
    forget_grad, alternate_grad = torch.autograd.grad(out.sum(), leaves)
    for i in range(B):
        forget = sum((values["logps"] - values["ref_logps"])[i, t].item() for t in range(T) if values["mask"][i, t])
        alternate = sum((values["alt_logps"] - values["alt_ref_logps"])[i, t].item() for t in range(T2) if values["alt_mask"][i, t])
        wrong = 1 / (1 + math.exp(beta * (alternate - forget)))
        assert out[i].item() == pytest.approx(-2 / beta * math.log(1 - wrong), rel=1e-12)
        close(forget_grad[i], [2 * wrong * m for m in values["mask"][i].tolist()])
        close(alternate_grad[i], [-2 * wrong * m for m in values["alt_mask"][i].tolist()])


def test_dpo_with_an_alternate_that_has_not_moved_is_npo():
    values = inputs()
    values["alt_ref_logps"] = values["alt_logps"]
    close(call("dpo", values), call("npo", values))
    values["alt_mask"] = torch.zeros_like(values["alt_mask"])  # nor does an alternate without labels count
    close(call("dpo", values), call("npo", values))


def test_dpo_starts_as_ascent_on_the_forget_answer_and_descent_on_the_alternate():
    values = inputs()
    values |= {"ref_logps": values["logps"], "alt_ref_logps": values["alt_logps"]}
    close(gradient(lambda x: call("dpo", values | {"logps": x}), values["logps"])[1], values["mask"])
    close(gradient(lambda x: call("dpo", values | {"alt_logps": x}), values["alt_logps"])[1], -values["alt_mask"].double())


@pytest.mark.parametrize("padding", [-5.0, -math.inf, math.nan])
@pytest.mark.parametrize("name", PER_SEQUENCE)
def test_what_stands_outside_the_mask_is_never_read(name, padding):
    values = inputs()
    names = [key for key in LOSSES[name].reads if "mask" not in key]
    padded = dict(values)
    for key in names:
        mask = values["alt_mask" if key.startswith("alt") else "mask"]
        padded[key] = values[key].where(mask, padding)
    for key in names:
        out, grad = gradient(lambda x, key=key: call(name, values | {key: x}), values[key])
        padded_out, padded_grad = gradient(lambda x, key=key: call(name, padded | {key: x}), padded[key])
        assert torch.equal(out, padded_out)
        assert torch.equal(grad, padded_grad)


@pytest.mark.parametrize("name", PER_SEQUENCE)
def test_a_sequence_does_not_see_the_others_nor_the_width_of_the_batch(name):
    values = inputs()
    together = call(name, values)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(call(name, {k: v[order] for k, v in values.items() if k in LOSSES[name].reads}), together[order])
    for i in range(B):
        alone = {k: v[i : i + 1] for k, v in values.items() if k in LOSSES[name].reads}
        width, alt_width = int(alone["mask"].sum()), int(values["alt_mask"][i].sum())
        alone = {k: v[:, : alt_width if k.startswith("alt") else width] for k, v in alone.items()}
        close(call(name, alone), together[i : i + 1])


@pytest.mark.parametrize("name", PER_SEQUENCE)
def test_a_sequence_without_labels_has_no_gradient(name):
    values = inputs()
    values |= {"mask": torch.zeros(B, T, dtype=torch.bool), "alt_mask": torch.zeros(B, T2, dtype=torch.bool)}
    out, grad = gradient(lambda x: call(name, values | {"logps": x}), values["logps"])
    assert out.isfinite().all()
    assert not grad.any()


@pytest.mark.parametrize("name", PER_SEQUENCE)
@settings(deadline=None, max_examples=40)
@given(pairs=st.lists(st.tuples(st.floats(-200, 0, width=32), st.floats(-200, 0, width=32)), min_size=1, max_size=32))
def test_every_sequence_gives_finite_values_and_gradients_in_fp32(name, pairs):
    logps, others = torch.tensor(pairs).T[:, None]
    mask = torch.ones_like(logps, dtype=torch.bool)
    values = {"logps": logps, "ref_logps": others, "mask": mask, "alt_logps": others, "alt_ref_logps": logps, "alt_mask": mask}
    out, grad = gradient(lambda x: call(name, values | {"logps": x}), logps)
    assert out.isfinite().all()
    assert grad.isfinite().all()
    assert ((grad >= 0) & (grad <= 2)).all()


def test_nll_is_registered_as_the_negative_of_gradient_ascent():
    logps = -torch.rand(B, T)
    assert LOSSES["nll"].function is nll
    assert torch.equal(nll(logps), -ga(logps))
