"""When a row or a token has been forgotten, which way targets pull, and what the objectives of a configuration are."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_unlearn import UnlearnConfig
from peft_unlearn.config.methods import METHODS, OURS
from peft_unlearn.losses import LOSSES
from peft_unlearn.model.lm_head import Head
from peft_unlearn.model.logprobs import Scores
from peft_unlearn.training.objectives import ABOVE, build, distance, hinge, off_target, remembered

MASK = torch.tensor([[1, 1, 1, 1, 0]]).bool()


def decide(probabilities, floor):
    logps = torch.tensor([[math.log(p) for p in probabilities] + [0.0]])
    tokens, rows = remembered(logps, MASK, floor)
    return tokens[0].tolist(), rows[0].item()


def test_a_row_leaves_when_its_mean_is_under_the_floor():
    assert decide([0.2, 0.2, 0.2, 0.2], 0.1) == ([True] * 4 + [False], True)
    assert decide([0.05, 0.2, 0.05, 0.1], 0.1) == ([False] * 5, False)


def test_a_token_leaves_under_the_square_of_the_floor():
    assert decide([0.9, 0.001, 0.9, 0.9], 0.1) == ([True, False, True, True, False], True)


def test_a_few_tokens_driven_down_without_end_do_not_hide_the_others():
    assert decide([1e-30, 0.9, 0.9, 0.9], 0.1)[1]  # the plain geometric mean is 3e-8


def test_at_floor_0_nothing_leaves():
    assert decide([1e-30, 1e-30, 1e-30, 1e-30], 0.0) == ([True] * 4 + [False], True)


# --------------------------------------------------------------------------------------------------------------------------- targets


def test_the_distance_from_a_target_is_counted_in_units_of_the_mean_target():
    above, below = off_target(torch.tensor([[-1.0, -6.0, -4.0]]), torch.tensor([[-4.0, -4.0, -4.0]]), 2.0)
    assert above.tolist() == [[1.5, 0, 0]]
    assert below.tolist() == [[0, 1, 0]]


def scores(logps, target_logps, vocabulary=7) -> Scores:
    """Two rows of five positions, of which one row labels three; the true token is number 0 and the others share what it leaves."""
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 0]]).bool()
    logps = torch.tensor(logps, dtype=torch.float64).reshape(2, 5).requires_grad_()
    known = logps[mask]
    others = (torch.log1p(-known.exp()) - math.log(vocabulary - 1)).unsqueeze(-1).expand(-1, vocabulary - 1)
    logits = torch.cat([known.unsqueeze(-1), others], -1)
    return Scores(
        torch.zeros(len(known), dtype=torch.long),
        logps,
        mask,
        logits,
        Head(lambda states: states, vocabulary, trained=True),
        target_logps=torch.tensor(target_logps, dtype=torch.float64).reshape(2, 5),
    )


def read(objective, made):
    """`made` with what the objective asks of its logits."""
    if objective.of_logits is None:
        return made
    return made._replace(of_logits={objective.name: objective.of_logits(made.states, made.targets, made.states)})


def gradient(method, made, scale=3.0, **changes):
    """Of the forget objective, with respect to each log-probability."""
    settings = {"logit_lens_coef": 0.0} | changes
    forget = build(UnlearnConfig("out", use_cpu=True, method=method, stop_at="never_seen", **settings), scale)[0]
    (found,) = torch.autograd.grad(forget.function(read(forget, made), made), made.logps)
    return found


log_probabilities = st.lists(st.floats(-8, -0.05), min_size=10, max_size=10)
TOKENS = ["mean_teacher", "ngdiff", "mollm", "graddiff", "wga", "satimp", "ihl", "ceu"]


@pytest.mark.parametrize("method", TOKENS)
@settings(deadline=None, max_examples=15)
@given(logps=log_probabilities, target_logps=log_probabilities)
def test_a_step_down_the_gradient_takes_each_token_towards_its_target(method, logps, target_logps):
    made = scores(logps, target_logps)
    pulls = gradient(method, made)
    assert (pulls[~made.mask] == 0).all()
    away = (made.logps.detach() - made.target_logps)[made.mask]
    assert (pulls[made.mask] * away >= 0).all()
    clear = away.abs() > 0.01
    assert (pulls[made.mask] != 0)[clear].all()


@pytest.mark.parametrize("method", [*TOKENS, "simnpo"])
def test_nothing_pulls_at_the_target(method):
    logps = [-0.1, -1.0, -2.0, -3.0, -4.0, -5.0, -0.2, -0.4, -0.8, -1.6]
    assert (gradient(method, scores(logps, logps)) == 0).all()


@settings(deadline=None, max_examples=30)
@given(logps=log_probabilities, target_logps=log_probabilities)
def test_a_loss_per_sequence_takes_each_row_towards_its_mean_target(logps, target_logps):
    made = scores(logps, target_logps)
    pulls = gradient("simnpo", made)
    for row in range(2):
        known = made.mask[row]
        away = (made.logps[row][known].mean() - made.target_logps[row][known].mean()).item()
        assert (pulls[row][~known] == 0).all()
        assert (pulls[row][known] * away >= 0).all()
        assert len(set(pulls[row][known].tolist())) == 1  # every token of a row alike


def test_the_distance_of_a_batch_is_the_sum_over_its_labels_of_what_they_are_off_by():
    made = scores([-1.0, -2.0, -3.0, -4.0, -5.0, -1.0, -1.0, -6.0, -1.0, -1.0], [-3.0] * 10)
    assert distance(made, 2.0).item() == (2 + 1 + 0 + 1 + 2 + 2 + 3 + 2) / 2


@pytest.mark.parametrize("method", TOKENS)
def test_a_token_twice_as_far_above_its_target_pulls_twice_as_hard(method):
    logps = [-1.0] * 10
    pulls = gradient(method, scores(logps, [-3.0] * 5 + [-5.0] * 5))
    assert pulls[1, 1:4].tolist() == pytest.approx((2 * pulls[0, 1:4]).tolist())


# ----------------------------------------------------------------------------------------------------------------- what a method asks for


@pytest.mark.parametrize("method", METHODS)
def test_the_objectives_of_a_method(method):
    args = UnlearnConfig("out", use_cpu=True, method=method)
    made = {o.name: o for o in build(args)}
    assert next(iter(made)) == "forget"
    assert ("retain" in made) == (args.retain_loss != "none")
    assert ("kl" in made) == (args.retain_kl != "none")
    assert [o.stream for o in made.values()] == ["forget"] + ["retain"] * (len(made) - 1)
    assert {name: o.coef for name, o in made.items()} == {
        name: {"forget": args.forget_coef, "retain": args.retain_coef, "kl": args.kl_coef}[name] for name in made
    }
    needs_reference = {"npo", "dpo", "idkdpo", "undial"}
    assert (made["forget"].anchor == "reference") == (method in needs_reference)
    assert made["forget"].per == ("sequence" if method in {"npo", "simnpo", "dpo", "idkdpo"} else "token")
    if method == "rmu":
        assert made["retain"].anchor == "reference"


@pytest.mark.parametrize("method", [name for name, said in METHODS.items() if LOSSES[said.settings["forget_loss"]].lowers])
def test_what_was_never_seen_is_held_where_our_three_methods_stop_early(method):
    args = UnlearnConfig("out", use_cpu=True, method=method, stop_at="auto", kl_coef=0.3, negate=False)
    made = {o.name: o for o in build(args)}
    assert ("holdout" in made) == (method in OURS)
    for held in (made["holdout"],) if method in OURS else ():
        assert (held.stream, held.anchor, held.coef, held.per) == ("holdout", "given", 0.3, "token")
    without = UnlearnConfig("out", use_cpu=True, method=method, stop_at="auto", holdout_kl="none", negate=False)
    assert "holdout" not in {o.name for o in build(without)}


def test_every_loss_reads_what_there_is_to_read():
    fields = {*Scores._fields, "logits"}  # a chunk at a time
    for loss in LOSSES.values():
        assert {name.removeprefix("alt_").removeprefix("ref_") for name in loss.reads} <= fields


@settings(deadline=None, max_examples=30)
@given(logps=log_probabilities, target_logps=log_probabilities, inside=log_probabilities)
def test_inner_layers_are_pulled_down_where_they_know_more_than_the_targets_and_left_alone_elsewhere(logps, target_logps, inside):
    made = scores(logps, target_logps)
    inner = torch.tensor(inside, dtype=torch.float64).reshape(2, 5).requires_grad_()
    made = made._replace(inner=inner)
    forget = build(UnlearnConfig("out", use_cpu=True, method="mollm", stop_at="never_seen", logit_lens_coef=0.5), 3.0)[0]
    (pulls,) = torch.autograd.grad(forget.function(made, None), inner)
    for row in range(2):
        known = made.mask[row].nonzero().squeeze(1).tolist()
        order = sorted(known, key=lambda t, row=row: inner[row, t].item())
        for place, wanted in zip(order, sorted(made.target_logps[row][known].tolist()), strict=True):
            assert (pulls[row, place] > 0) == (inner[row, place].item() > wanted)
        assert (pulls[row][~made.mask[row]] == 0).all()


def test_what_inner_layers_weigh_by_now_multiplies_their_coefficient():
    made = scores([math.log(0.5)] * 10, [-3.0] * 10)._replace(inner=torch.full((2, 5), -1.0, dtype=torch.float64))
    weight = [1.0]
    plain, heavy = (
        build(UnlearnConfig("out", use_cpu=True, method="mollm", stop_at="never_seen", logit_lens_coef=coef), 3.0, lambda: weight[0])[0]
        for coef in (0.3, 0.9)
    )
    expected = heavy.function(made, None)
    assert plain.function(made, None) != expected
    weight[0] = 3.0
    torch.testing.assert_close(plain.function(made, None), expected)


# --------------------------------------------------------------------------------------------------------------------- other answers


def answers_objective(**changes):
    return next(o for o in build(UnlearnConfig("out", use_cpu=True, method="graddiff", answers="column", **changes)) if o.name == "answers")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0.001, 0.999), min_size=10, max_size=10))
def test_other_answers_are_learned_up_to_a_probability_of_seven_tenths(probabilities):
    """Minus log p, times log(.7 / p) between 0 and 1: the pull on log p is that weight, and none is left at .7."""
    objective = answers_objective()
    made = scores([math.log(p) for p in probabilities], [0.0] * 10)
    value = objective.function(made, None)
    weights = [[min(1.0, max(0.0, math.log(0.7 / p))) for p in probabilities[start : start + 5]] for start in (0, 5)]
    known = [(row, place) for row in range(2) for place in range(5) if made.mask[row, place]]
    expected = sum(-weights[row][place] * math.log(probabilities[5 * row + place]) for row, place in known)
    assert value.item() == pytest.approx(expected, abs=1e-9)
    (pulls,) = torch.autograd.grad(value, made.logps)
    assert pulls.tolist() == [
        [pytest.approx(-weights[row][place] if (row, place) in known else 0.0, abs=1e-9) for place in range(5)] for row in range(2)
    ]


def test_other_answers_are_a_stream_of_their_own_and_a_preference_loss_has_them_beside_its_rows():
    found = answers_objective(answers_coef=0.3)
    assert (found.stream, found.coef, found.per, found.anchor) == ("answers", 0.3, "token", None)
    for method, answers in (("graddiff", "none"), ("dpo", "column"), ("idkdpo", "refuse"), ("dpo", "natural")):
        args = UnlearnConfig("out", use_cpu=True, method=method, answers=answers)
        assert "answers" not in {o.name for o in build(args)}
    for method in OURS:
        assert {o.stream for o in build(UnlearnConfig("out", use_cpu=True, method=method, stop_at="auto"))} >= {"answers", "holdout"}


# ----------------------------------------------------------------------------------------------------------------------- the retain hinge


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.floats(-0.3, 0.3))
def test_the_hinge_pulls_up_what_has_become_less_likely_and_nothing_else(seed, shift):
    """Against the slopes of its three parts: `shift` nats from where it was, d loss / d log p is -1, -(1 - shift / .1) or 0."""
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(3, 7, generator=generator, dtype=torch.float64).log_softmax(-1)
    targets = torch.randint(7, (3,), generator=generator)
    true = torch.nn.functional.one_hot(targets, 7).bool()
    rest = before.masked_fill(true, -torch.inf)
    moved = (before[true] + shift).clamp_max(-1e-3)  # and the others share what is left as they did
    others = rest + torch.log1p(-moved.exp()).unsqueeze(-1) - rest.logsumexp(-1, keepdim=True)
    logits = torch.where(true, moved.unsqueeze(-1), others).requires_grad_()
    (pulls,) = torch.autograd.grad(hinge(logits, targets, before).sum(), logits)
    expected = (1 - (moved - before[true]) / 0.1).clamp(0, 1)
    assert torch.allclose(pulls[true], -expected * (1 - moved.exp()), atol=1e-9)
    assert torch.allclose(pulls.sum(-1), torch.zeros(3, dtype=torch.float64), atol=1e-9)


def test_the_hinge_is_what_was_lost_and_nothing_where_all_has_become_likelier():
    before = torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]]).log()
    now = torch.tensor([[0.25, 0.75], [0.4, 0.6], [0.9, 0.1]]).log()
    found = hinge(now, torch.zeros(3, dtype=torch.long), before)
    assert found.tolist() == pytest.approx([math.log(2) + ABOVE / 2, 0.0, ABOVE / 2])
