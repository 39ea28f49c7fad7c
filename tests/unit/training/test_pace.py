"""The pace of a run: against a replay of all its checks, and what it makes of a run's length."""

import plain_pace
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_unlearn.training.pace import FALL, HEAVIEST, LOWEST, PATIENCE, RISE, SAME_SIDE, STALE, Pace, patience, steps_left

misses = st.floats(-30, 30) | st.sampled_from([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])
checks = st.lists(
    st.tuples(misses, misses, misses, st.booleans(), st.floats(0, 20) | st.sampled_from([0.0, 1.0, 1.5, 2.0, 4.0])), max_size=40
)


def after(history) -> Pace:
    found = Pace()
    for mean, membership, retain, near, *answers in history:
        found.check((mean, membership), retain, near, answers=sum(answers))
    return found


@settings(deadline=None, max_examples=300)
@given(checks)
def test_the_pace_is_that_of_all_its_checks_replayed(history):
    found = after(history)
    assert found.rate == pytest.approx(plain_pace.rate(history), rel=1e-12)
    assert found.keep == pytest.approx(plain_pace.weight(history[-1][2] if history else 0.0), rel=1e-12)
    assert found.since == (plain_pace.since(history) if history else 0)
    assert LOWEST <= found.rate <= 1
    assert 1 <= found.keep <= HEAVIEST
    assert found.stalled == (found.since >= PATIENCE)


@settings(deadline=None, max_examples=100)
@given(checks, checks)
def test_a_pace_that_was_kept_goes_on_as_one_that_was_not(first, second):
    whole, resumed = after(first + second), Pace.of(after(first).state())
    for mean, membership, retain, near, answers in second:
        resumed.check((mean, membership), retain, near, answers=answers)
    assert resumed == whole
    assert torch.equal(resumed.state(), whole.state())


def test_a_rate_that_fell_rises_while_what_has_no_other_side_is_missed():
    found = after([(2.0, 0.0, 0.0, True), (-2.0, 0.0, 0.0, True), (2.0, 0.0, 0.0, True)])
    fell = found.rate
    assert fell < 1
    for _ in range(SAME_SIDE - 1):
        found.check((0.5, -0.5), 0.0, True, answers=9.0)
        assert found.rate == fell  # it swung a moment ago
    found.check((0.5, -0.5), 0.0, True, answers=9.0)
    assert found.rate == pytest.approx(fell * RISE)
    found.check((0.5, -0.5), 0.0, True, answers=0.9)
    assert found.rate == pytest.approx(fell * RISE)
    best = found.best
    found.check((0.5, -0.5), 0.0, True, 1.0, 1.0)
    assert found.best == min(best, 0.0)  # nothing is missed any more


@pytest.mark.parametrize(
    ("answers", "retain", "falls"), [(0.9, 0.0, False), (1.1, 0.0, True), (1.9, 0.9, True), (2.1, 0.0, False), (1.5, 1.1, False)]
)
def test_the_rate_falls_while_the_last_few_answers_alone_are_missed(answers, retain, falls):
    found = Pace()
    for count in range(1, 4):
        found.check((0.9, -0.9), retain, True, answers=answers)
        assert found.rate == pytest.approx(FALL**count if falls else 1.0)
    found = Pace()
    found.check((0.9, -1.1), retain, True, answers=answers)
    assert found.rate == 1.0  # not alone


def near(*means, retain=0.0):
    return [(mean, 0.0, retain, True) for mean in means]


def test_the_rate_falls_with_each_swing_and_never_far_from_the_targets():
    assert after(near(3.0, -3.0)).rate == FALL
    assert after(near(3.0, -3.0, 3.0)).rate == FALL**2
    assert after(near(3.0, 0.5, -3.0)).rate == FALL  # a check within tolerance may lie between
    assert after(near(3.0, 0.5, 3.0)).rate == 1.0
    assert after([(3.0, 0, 0, False), (-3.0, 0, 0, False)] * 5).rate == 1.0
    assert after(near(*[3.0, -3.0] * 99)).rate == LOWEST
    assert after([(0.0, 3.0, 0.0, True), (0.0, -3.0, 0.0, True)]).rate == FALL  # membership counts as the mean does
    assert after([(3.0, 0.0, 0.0, True), (0.0, -3.0, 0.0, True)]).rate == 1.0  # and each beside itself alone


def test_the_rate_rises_where_a_target_stays_missed_or_the_retain_set_alone_is():
    swung = near(3.0, -3.0)
    assert after([*swung, *near(-3.0)]).rate == FALL
    assert after([*swung, *near(*[-3.0] * (SAME_SIDE - 1))]).rate == pytest.approx(FALL * RISE)
    assert after([*swung, *near(*[0.0] * (SAME_SIDE - 1), retain=2.0)]).rate == FALL
    assert after([*swung, *near(*[0.0] * SAME_SIDE, retain=2.0)]).rate == pytest.approx(FALL * RISE)
    assert after([*swung, *near(*[0.0] * 7, retain=0.9)]).rate == FALL  # all is within tolerance
    assert after([*swung, *near(*[-3.0] * 7)]).rate == 1.0


def test_the_rate_falls_with_every_third_check_that_misses_the_forget_set_above_and_the_retain_set():
    for count, falls in ((2, 0), (3, 1), (5, 1), (6, 2)):
        assert after(near(*[1.5] * count, retain=1.5)).rate == pytest.approx(FALL**falls)
        assert after([(0.0, 1.5, 1.5, True)] * count).rate == pytest.approx(FALL**falls)
        assert after([(1.5, 0.0, 1.5, False)] * count).rate == 1.0  # on its way everything is missed
        assert after(near(*[-1.5] * count, retain=1.5)).rate == 1.0  # nothing that has to go down
        assert after(near(*[1.5] * count, retain=0.9)).rate == 1.0
    assert after([*near(1.5, 1.5, retain=1.5), *near(1.5), *near(1.5, retain=1.5)]).rate == 1.0  # not in a row


@pytest.mark.parametrize("is_near", [False, True])
def test_the_rate_falls_for_good_where_no_check_is_nearer(is_near):
    found = after([(5.0, 0.0, 0.0, is_near)])
    for count in range(1, 2 * STALE + 1):
        found.check((5.0, 0.0), 0.0, is_near)
        assert found.rate == pytest.approx(FALL ** (count // STALE))  # near its targets it may rise no further
    found.check((4.0, 0.0), 0.0, is_near)
    assert found.since == 0
    for _ in range(STALE - 1):
        found.check((4.0, 0.0), 0.0, is_near)
    assert found.rate == pytest.approx(FALL**2)


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("miss", [0.0, 0.9, 1.7, 9.0])
def test_answers_that_are_not_said_yet_weigh_more_near_the_targets(miss, near):
    found = Pace()
    found.check((0.0, 0.0), 0.0, near, answers=miss)
    assert found.teach == (plain_pace.weight(miss) if near else 1.0)
    assert found.keep == 1.0
    assert Pace.of(found.state()) == found


def test_a_run_has_stalled_after_checks_that_were_no_nearer_and_a_nearer_one_starts_anew():
    still = [(5.0, 0.0, 0.0, True)]
    assert not after(still * PATIENCE).stalled  # the first was nearer than none
    assert after(still * (PATIENCE + 1)).stalled
    assert not after([*still * PATIENCE, (4.0, 0.0, 0.0, True)]).stalled
    assert after([*still * PATIENCE, (4.99, 0.0, 0.0, True)]).stalled  # hardly any nearer
    assert not after([(40.0 * 0.9**n, 0.0, 0.0, False) for n in range(PATIENCE + 10)]).stalled


# ------------------------------------------------------------------------------------------------------------------------ steps left


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 5000), st.floats(0.01, 0.99), st.floats(0, 100), st.integers(1, 50))
def test_steps_left_are_the_rest_of_the_way_and_some_checks(step, share, miss, every):
    rest = step / share - step
    left = steps_left(step, share, miss, every)
    assert rest + 2 * every <= left + 1e-6
    assert left >= steps_left(step, share, miss / 2, every)
    assert steps_left(step, min(0.99, share * 1.01), miss, every) <= left
    if miss <= 1:
        assert left == pytest.approx(rest + 2 * every, abs=1.001)


@pytest.mark.parametrize("share", [-0.2, 0.0, 1.0, 1.3])
def test_where_there_is_no_way_to_go_or_none_was_gone_checks_alone_are_left(share):
    assert steps_left(100, share, 0.5, 10) == 20
    assert steps_left(100, share, 4.0, 10) == 60


@pytest.mark.parametrize(
    ("rows", "seen", "checks"), [(48, 80, 20), (1, 80, 20), (160, 80, 20), (161, 80, 21), (400, 80, 50), (400, 160, 25)]
)
def test_a_large_forget_set_is_passed_over_ten_times_before_a_run_gives_up(rows, seen, checks):
    assert patience(rows, seen) == checks
    found = Pace(patience=patience(rows, seen))
    for _ in range(checks):
        found.check((5.0, 0.0), 0.0, False)
        assert not found.stalled
    found.check((5.0, 0.0), 0.0, False)
    assert found.stalled
    assert Pace.of(found.state(), found.patience) == found
