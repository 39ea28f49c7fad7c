"""The baselines' losses of logits and hidden states against closed forms in fp64, their limits, and what must not change them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_inputs import H, V, call, close, gradient, inputs
from scipy import stats

from peft_unlearn.losses import ceu, hidden_distance, ihl, logit_margin, nlul, rmu, undial
from peft_unlearn.losses.rmu import direction

OF_LOGITS = ("ihl", "undial", "ceu", "logit_margin")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# ---------------------------------------------------------------------------------------------------------------- of logits


def test_ihl_gradient_equals_its_closed_form():
    values = inputs()
    out, grad = gradient(lambda z: ihl(z, values["targets"]), values["logits"])
    for n, (z, y) in enumerate(zip(values["logits"].tolist(), values["targets"].tolist(), strict=True)):
        total = sum(math.exp(x) for x in z)
        p = [math.exp(x) / total for x in z]
        m = max((v for v in range(V) if v != y), key=lambda v: p[v])
        expected = [x * (p[m] - p[y]) for x in p]
        expected[y] = p[y] * (1 - p[y] + p[m])
        expected[m] = -p[m] * (1 + p[y] - p[m])
        assert out[n].item() == pytest.approx(1 + p[y] - p[m], rel=1e-12)
        close(grad[n], expected)


def test_ihl_tokens_that_tie_share_alike():
    logits = torch.tensor([[0.0, 1.0, 1.0, -2.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    _, grad = gradient(lambda z: ihl(z, torch.tensor([0, 2])), logits)
    assert grad[0, 1].item() == pytest.approx(grad[0, 2].item())
    close(grad[1], [-1 / 12, -1 / 12, 1 / 4, -1 / 12])  # p = 1/4: p (1 - p + p) on the true one, the rest shares what makes the sum 0


def test_ihl_and_flatten_are_smooth_between_ties():
    values = inputs()
    assert torch.autograd.gradcheck(lambda z: ihl(z, values["targets"]), values["logits"].requires_grad_())
    assert torch.autograd.gradcheck(logit_margin, values["logits"])


@settings(deadline=None, max_examples=60)
@given(logits=st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=12), true=st.integers(0, 1))
def test_ihl_stays_between_its_bounds(logits, true):
    out, grad = gradient(lambda z: ihl(z, torch.tensor([true])), torch.tensor([logits]))
    assert -1e-6 <= out.item() <= 2 + 1e-6
    assert grad.abs().max() <= 1.0  # p (1 - p + p_m) <= 2 p (1 - p)
    assert abs(grad.sum().item()) < 1e-5


def test_ceu_is_the_negative_log_unlikelihood_plus_the_entropy_of_the_others():
    values = inputs()
    out, grad = gradient(lambda z: ceu(z, values["targets"]), values["logits"])
    for n, (z, y) in enumerate(zip(values["logits"].tolist(), values["targets"].tolist(), strict=True)):
        total, rest = sum(math.exp(x) for x in z), sum(math.exp(x) for v, x in enumerate(z) if v != y)
        q = [0.0 if v == y else math.exp(x) / rest for v, x in enumerate(z)]
        p_y = math.exp(z[y]) / total
        entropy = -sum(x * math.log(x) for x in q if x)
        assert out[n].item() == pytest.approx(-math.log(1 - p_y) + entropy, rel=1e-9)
        close(grad[n], [p_y if v == y else -p_y * q[v] for v in range(V)])


def test_ceu_pulls_as_nlul_without_tol_does():
    values = inputs()
    true = values["targets"][:, None]
    _, expected = gradient(lambda z: nlul(z.log_softmax(-1).gather(-1, true)[:, 0], tol=0.0), values["logits"])
    close(gradient(lambda z: ceu(z, values["targets"]), values["logits"])[1], expected)


@pytest.mark.parametrize("beta", [0.0, 3.0, 10.0, 200.0])
def test_undial_pulls_by_the_difference_to_the_lowered_reference(beta):
    values = inputs()
    z, z0, targets = values["logits"], values["ref_logits"], values["targets"]
    out, grad = gradient(lambda x: undial(x, targets, z0, beta=beta), z)
    for n, y in enumerate(targets.tolist()):
        lowered = [x - beta * (v == y) for v, x in enumerate(z0[n].tolist())]
        p = [math.exp(x) / sum(map(math.exp, z[n].tolist())) for x in z[n].tolist()]
        q = [math.exp(x) / sum(map(math.exp, lowered)) for x in lowered]
        assert out[n].item() == pytest.approx(-sum(a * math.log(b) for a, b in zip(q, p, strict=True)), rel=1e-9)
        close(grad[n], [b - a for a, b in zip(q, p, strict=True)])


def test_undial_is_smooth_and_does_not_train_its_reference():
    values = inputs()
    z0 = values["ref_logits"].requires_grad_()
    assert torch.autograd.gradcheck(lambda z: undial(z, values["targets"], z0.detach()), values["logits"].requires_grad_())
    assert torch.autograd.grad(undial(values["logits"], values["targets"], z0).sum(), z0, allow_unused=True) == (None,)


def test_undial_has_come_to_rest_at_the_lowered_reference():
    values = inputs()
    lowered = values["ref_logits"] - 10.0 * torch.nn.functional.one_hot(values["targets"], V)
    _, grad = gradient(lambda z: undial(z, values["targets"], values["ref_logits"]), lowered)
    assert grad.abs().max() < 1e-15
    best = undial(lowered, values["targets"], values["ref_logits"])
    assert (undial(values["logits"], values["targets"], values["ref_logits"]) > best).all()


def test_flatten_equals_its_closed_form_and_rests_where_nothing_stands_out():
    values = inputs()
    out, grad = gradient(logit_margin, values["logits"])
    for n, z in enumerate(values["logits"].tolist()):
        margin = max(z) - sum(z) / V
        assert out[n].item() == pytest.approx(margin**2, rel=1e-12)
        close(grad[n], [2 * margin * ((x == max(z)) - 1 / V) for x in z])
    close(logit_margin(values["logits"] + 5.0), out)
    close(gradient(logit_margin, torch.tensor([[2.0, 0.0, 2.0]], dtype=torch.float64))[1], [[2 / 9, -4 / 9, 2 / 9]])  # a tie is shared
    out, grad = gradient(logit_margin, torch.full((2, V), 3.0, dtype=torch.float64))
    assert not out.any()
    assert not grad.any()


@pytest.mark.parametrize("name", OF_LOGITS)
def test_a_token_does_not_see_the_others_nor_the_order_of_the_vocabulary(name):
    values = inputs()
    together, grad = gradient(lambda z: call(name, values | {"logits": z}), values["logits"])
    order, words = torch.randperm(len(together)), torch.randperm(V)
    of_tokens = {k: values[k] for k in ("logits", "ref_logits", "targets")}
    close(call(name, {k: v[order] for k, v in of_tokens.items()}), together[order])
    renamed = {k: v[:, words] for k, v in of_tokens.items() if k != "targets"} | {"targets": words.argsort()[values["targets"]]}
    out, renamed_grad = gradient(lambda z: call(name, renamed | {"logits": z}), renamed["logits"])
    close(out, together)
    close(renamed_grad, grad[:, words])
    for n in range(len(together)):
        close(call(name, {k: v[n : n + 1] for k, v in of_tokens.items()}), together[n : n + 1])


@pytest.mark.parametrize("gap", [20.0, 100.0, 1e4])
@pytest.mark.parametrize("name", OF_LOGITS)
def test_fp32_gradients_are_finite_where_a_token_is_certain_or_impossible(name, gap):
    logits = torch.randn(4, V)
    logits[0, 0] += gap  # the true token is certain,
    logits[1, 0] -= gap  # impossible,
    logits[2, 1] += gap  # another one is certain,
    logits[3] = 0.0  # nothing stands out
    values = {"logits": logits, "targets": torch.zeros(4, dtype=torch.long), "ref_logits": logits.clone()}
    out, grad = gradient(lambda z: call(name, values | {"logits": z}), logits)
    assert out.isfinite().all()
    assert grad.isfinite().all()
    exact = gradient(lambda z: call(name, values | {"logits": z, "ref_logits": logits.double()}), logits.double())[1]
    close(grad, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["ihl", "undial", "ceu"])
def test_a_vocabulary_entry_that_is_switched_off_changes_nothing(name):
    values = inputs()
    off = {k: torch.nn.functional.pad(values[k], (0, 2), value=-math.inf) for k in ("logits", "ref_logits")} | {
        "targets": values["targets"]
    }
    out, grad = gradient(lambda z: call(name, values | {"logits": z}), values["logits"])
    off_out, off_grad = gradient(lambda z: call(name, off | {"logits": z}), off["logits"])
    close(off_out, out)
    close(off_grad, torch.nn.functional.pad(grad, (0, 2)))


@pytest.mark.parametrize(
    ("loss", "memorized", "gone"),
    [(ihl, 0.0, 0.0), (ceu, 1.0, 0.0), (lambda z, y: undial(z, y, torch.tensor([[12.0, 0, 0, 0]]).to(z)), None, None)],
    ids=["ihl", "ceu", "undial"],
)
def test_pull_on_the_true_token_at_both_ends(loss, memorized, gone):
    ends = [
        gradient(lambda z: loss(z, torch.tensor([0])), torch.tensor([[x, 0.0, 0.0, 0.0]], dtype=torch.float64))[1][0, 0].item()
        for x in (20, -20)
    ]
    if memorized is None:  # UNDIAL's end is its reference's: here q = e^2 / (e^2 + 3)
        q = math.exp(2) / (math.exp(2) + 3)
        memorized, gone = 1 - q, -q
    assert ends == pytest.approx([memorized, gone], abs=1e-6)


# ---------------------------------------------------------------------------------------------------------------- hidden states


@pytest.mark.parametrize("size", [1, 2, 64, 2048, 8192])
def test_the_direction_is_a_unit_vector_of_its_size_alone(size):
    u = direction(size)
    torch.manual_seed(1)
    assert torch.equal(u, direction(size))
    assert u.norm().item() == pytest.approx(1.0, abs=1e-12)
    assert (u >= 0).all()
    if size >= 2048:  # as evenly spread over [0, 1), before it was normalized, as a draw is
        assert stats.kstest((u / u.max()).numpy(), "uniform").pvalue > 0.5


def test_rmu_equals_its_closed_form_and_rests_at_the_scaled_direction():
    hidden = inputs()["hidden"]
    u = [(i * (1 + math.sqrt(5)) / 2) % 1 for i in range(1, H + 1)]
    norm = math.sqrt(sum(x * x for x in u))
    out, grad = gradient(lambda h: rmu(h, scale=3.0), hidden)
    for n, h in enumerate(hidden.tolist()):
        gap = [a - 3.0 * b / norm for a, b in zip(h, u, strict=True)]
        assert out[n].item() == pytest.approx(sum(x * x for x in gap) / H, rel=1e-12)
        close(grad[n], [2 * x / H for x in gap])
    close(rmu(2.0 * direction(H)[None]), [0.0])
    close(rmu(hidden, scale=0.0), hidden_distance(hidden, torch.zeros_like(hidden)))


def test_hidden_states_keep_their_dtype_and_rows_apart():
    values = inputs(torch.float32)
    hidden, ref = values["hidden"], values["ref_hidden"]
    assert rmu(hidden).dtype == hidden_distance(hidden, ref).dtype == torch.float32
    rows = zip(hidden.tolist(), ref.tolist(), strict=True)
    close(hidden_distance(hidden, ref), [sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / H for x, y in rows], 1e-5)
    for n in range(len(hidden)):
        close(rmu(hidden[n : n + 1]), rmu(hidden)[n : n + 1])
    assert not hidden_distance(hidden, hidden).any()
