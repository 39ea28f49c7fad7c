"""When early stopping ends a run, and that it does so where a twin is that never saw the forget set."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from peft_unlearn.metrics.membership import auc
from peft_unlearn.model.logprobs import matched
from peft_unlearn.training.early_stop import (
    APPROACH,
    CORRECTION,
    DEEPER,
    DEEPEST,
    IN_A_ROW,
    LOOKS,
    RETAIN_LOSS,
    TOLERANCE,
    TOLERANCE_ANSWERS,
    TOLERANCE_EXTRACTION,
    TOLERANCE_INNER,
    TOLERANCE_MIN_K,
    WAITS,
    EarlyStop,
    missing_factor,
)
from peft_unlearn.training.pace import PATIENCE

# Six rows of ten tokens: the four lowest of each have the mean -5 over rows, all ten -2.9.
RISE = np.array([-5.6, -5.2, -4.8, -4.4, -1.7, -1.6, -1.5, -1.5, -1.4, -1.3])
ROWS = [RISE * share for share in (0.9, 0.94, 0.98, 1.02, 1.06, 1.1)]
LEVEL, LOWEST, RETAINED = -2.9, -5.0, 0.9
AT = (1.0, 1.0)
ENDS = [0] * len(ROWS)  # no row has an end token


def rows_at(logp: float, lowest: float) -> list[np.ndarray]:
    """Rows whose mean and Min-K are these shares of the targets'."""
    least = 0.4 * LOWEST
    rest = (logp * LEVEL - lowest * least) / (LEVEL - least)
    return [row * np.where(np.arange(10) < 4, lowest, rest) for row in ROWS]


def checked(checks, *, holdout=None, now=None) -> EarlyStop:
    """A run's early stopping after `checks`: each as (log-probability, Min-K) as shares of their target_logps, maybe with retain's probability."""
    early_stop = EarlyStop(ROWS, ENDS, RETAINED, None if holdout is None else np.array(holdout))
    if now is not None:
        early_stop.follow(np.array(now))
    for logp, lowest, *retain in checks:
        early_stop.check(rows_at(logp, lowest), *(retain or [RETAINED]), None if now is None else np.array(now))
    return early_stop


def reached(checks, **changes) -> bool:
    return checked(checks, **changes).reached


def test_the_rows_of_these_tests_have_the_shares_that_they_are_asked_for():
    rows = rows_at(0.9, 1.1)
    assert np.mean([row.mean() for row in rows]) == pytest.approx(0.9 * LEVEL)
    assert np.mean([np.sort(row)[:4].mean() for row in rows]) == pytest.approx(1.1 * LOWEST)


@pytest.mark.parametrize(("logp", "lowest"), [(0.9, 0.9), (0.0, 0.0), (-0.9, -0.9), (0.9, -0.9), (-0.9, 0.9)])
def test_targets_are_reached_when_checks_in_a_row_are_within_tolerance_on_either_side(logp, lowest):
    near = (1 + logp * TOLERANCE, 1 + lowest * TOLERANCE_MIN_K)
    assert IN_A_ROW > 1  # or a run that passes through would count
    assert not reached([near] * (IN_A_ROW - 1))
    assert reached([near] * IN_A_ROW)
    assert reached([near] * (IN_A_ROW + 1))


far, far_lowest = 1.1 * TOLERANCE, 1.1 * TOLERANCE_MIN_K
FAR = [(1 + far, 1.0), (1 - far, 1.0), (1.0, 1 + far_lowest), (1.0, 1 - far_lowest), (1 + far, 1 - far_lowest), (0.03, 0.03), (5.0, 5.0)]


@pytest.mark.parametrize("check", [*FAR, (math.nan, 1.0), (1.0, math.nan)])
def test_mean_and_lowest_tokens_must_both_be_near_and_neither_above_nor_below(check):
    assert not reached([check] * 3 * IN_A_ROW)


@pytest.mark.parametrize("away", [*FAR, (1.0, 1.0, RETAINED - 1.1 * RETAIN_LOSS)])
def test_a_check_from_elsewhere_starts_the_count_again(away):
    assert not reached([AT] * (IN_A_ROW - 1) + [away] + [AT] * (IN_A_ROW - 1))
    assert reached([AT] * (IN_A_ROW - 1) + [away] + [AT] * IN_A_ROW)
    assert not reached([AT] * 50 + [away])


def test_a_retain_set_that_was_hurt_is_waited_for():
    assert reached([(1.0, 1.0, RETAINED - 0.9 * RETAIN_LOSS)] * IN_A_ROW)
    assert reached([(1.0, 1.0, 1.0)] * IN_A_ROW)
    assert not reached([(1.0, 1.0, RETAINED - 1.1 * RETAIN_LOSS)] * 3 * IN_A_ROW)


def extracted(excesses, check=AT) -> EarlyStop:
    """A run's early stopping after checks that found the forget set's extraction strength so much above the holdout's."""
    early_stop = EarlyStop(ROWS, ENDS, RETAINED, estimated=True)
    for excess in excesses:
        early_stop.check(rows_at(*check), RETAINED, extraction=excess)
    return early_stop


def test_rows_that_go_on_by_themselves_for_longer_than_unseen_ones_are_not_there_yet():
    more, most = 0.9 * TOLERANCE_EXTRACTION, 1.1 * TOLERANCE_EXTRACTION
    assert extracted([more] * IN_A_ROW).reached
    assert extracted([-9 * most] * IN_A_ROW).reached
    assert not extracted([most] * 3 * IN_A_ROW).reached
    assert extracted([most]).last.missed()["extraction"] == pytest.approx(1.1)


@pytest.mark.parametrize("estimated", [True, False])
@pytest.mark.parametrize("off", [-0.11, -0.09, -0.06, -0.04, 0.04, 0.06, 0.09, 0.11])
def test_the_mean_may_be_a_twentieth_off_what_is_known_and_a_tenth_off_an_estimate(off, estimated):
    found = extracted([0.0] * IN_A_ROW, (1 - off, 1.0)) if estimated else checked([(1 - off, 1.0)] * IN_A_ROW)
    assert found.reached is (abs(off) < (0.1 if estimated else 0.05))


def looking(recalls, check=AT, known=0.5) -> tuple[EarlyStop, int]:
    """A run's early stopping after checks where inner layers recalled so much, and how many of these it asked for."""
    early_stop, asked = EarlyStop(ROWS, ENDS, RETAINED, inner=known), []
    for recall in recalls:
        early_stop.check(rows_at(*check), RETAINED, inner=lambda recall=recall: asked.append(recall) or recall)
    return early_stop, len(asked)


def test_inner_layers_that_know_more_than_a_never_seen_models_are_waited_for_and_weigh_more():
    more, most = 0.5 + 0.9 * TOLERANCE_INNER, 0.5 + 1.1 * TOLERANCE_INNER
    for recalls, reached, weight in (
        ([more] * 2, True, 1.0),
        ([0.1] * 2, True, 1.0),
        ([most, more], False, DEEPER),
        ([most, 0.5, 0.5], True, DEEPER),
    ):
        early_stop, asked = looking(recalls)
        assert (early_stop.reached, early_stop.inner_weight, asked) == (reached, weight, len(recalls))
    assert looking([most])[0].last.missed()["inner"] == pytest.approx(1.1)


def test_inner_layers_are_read_where_all_else_is_as_it_shall_be_and_not_for_ever():
    assert looking([0.9] * 3, FAR[0])[1] == 0
    assert looking([0.9] * 3, known=None)[1] == 0
    early_stop, asked = looking([0.9] * (LOOKS + 1))
    assert (asked, early_stop.reached) == (LOOKS, False)
    assert early_stop.inner_weight == min(DEEPER**LOOKS, DEEPEST)
    assert looking([0.9] * (LOOKS + 2))[0].reached


def test_high_targets_leave_the_ends_of_rows_as_long_as_these_can_be_extracted_and_come_back():
    assert extracted([0.0]).later == 0.0
    assert extracted([-0.1]).later == 0.0
    assert extracted([0.1] * 2).later > extracted([0.1]).later > 0.0
    assert extracted([0.1] * 2 + [-0.1]).later == pytest.approx(extracted([0.1]).later)
    assert extracted([0.5] * 99).later == 1.0
    assert extracted([0.5], (0.9 * APPROACH,) * 2).later == 0.0  # on the way there nothing is known yet


def test_tokens_fall_back_by_their_places_in_the_order_of_targets():
    early_stop = EarlyStop([np.array([-9.0, -5.0, -2.0, -1.0])], [0], RETAINED, estimated=True)
    targets, logps = torch.tensor([[0.0, -9.0, -5.0, -2.0, -1.0, 0.0]]), torch.tensor([[-7.0, -4.0, -3.0, -0.2, -0.1, -8.0]])
    mask = torch.tensor([[False, True, True, True, True, False]])
    for later, expected in (
        (0.0, [-9.0, -5.0, -2.0, -1.0]),
        (0.6, [-9.0, -5.0, -2.0, -1.0]),  # places 0, .4, .8, 1.2
        (1.5, [-1.0, -2.0, -5.0, -9.0]),  # the other way round
    ):
        early_stop.later = later
        assert early_stop.targets_now([0], targets, logps, mask)[mask].tolist() == expected
    early_stop.later, swapped = 0.6, torch.tensor([[-7.0, -0.1, -0.2, -3.0, -4.0, -8.0]])
    early_stop.estimated = False
    assert early_stop.targets_now([0], targets, swapped, mask)[mask].tolist() == targets[mask].tolist()  # a never-seen model's stay


TWO = st.integers(2, 8).flatmap(lambda n: st.tuples(*(st.lists(st.floats(-9, -0.1), min_size=n, max_size=n, unique=True) for _ in "ab")))


@given(TWO, st.data())
def test_the_tokens_that_both_answers_have_get_the_highest_targets(rows, data):
    told, logps = rows
    place = data.draw(st.integers(0, len(told) - 1))
    common = [n != place and data.draw(st.booleans()) for n in range(len(told))]
    early_stop = EarlyStop([np.array(told)], [0], RETAINED, estimated=True, parting=[place], common=[common])
    targets, values, mask = torch.tensor([told]), torch.tensor([logps]), torch.ones(1, len(told), dtype=torch.bool)
    found = early_stop.targets_now([0], targets, values, mask)[0].tolist()
    rest = sorted(target for n, target in enumerate(targets[0].tolist()) if n != place)  # the token at the place leaves its own to nobody
    both, alone = ([n for n in range(len(told)) if n != place and common[n] is flag] for flag in (True, False))
    assert sorted(found[n] for n in alone) == rest[: len(alone)]
    assert sorted(found[n] for n in both) == rest[len(alone) :]
    for some in (both, alone):  # and among themselves they go as the model's own
        assert sorted(some, key=lambda n: found[n]) == sorted(some, key=lambda n: values[0, n])


def test_a_text_that_has_lost_its_beginning_parts_at_the_same_token():
    told, logps = [-3.0, -4.0, -0.5, -1.0, -2.0], [-9.0, -7.0, -0.1, -8.0, -6.0]
    early_stop = EarlyStop([np.array(told)], [0], RETAINED, parting=[2])
    for lost in range(3):
        targets, values = torch.tensor([[*told[lost:], 0.0]]), torch.tensor([[*logps[lost:], 0.0]])
        mask = torch.tensor([[True] * (5 - lost) + [False]])
        assert early_stop.targets_now([0], targets, values, mask)[mask].tolist() == pytest.approx([*told[lost:2], math.log(0.3), *told[3:]])


def test_answers_that_are_taught_are_waited_for():
    for lacking, expected in ((0.9 * TOLERANCE_ANSWERS, True), (1.1 * TOLERANCE_ANSWERS, False)):
        early_stop = EarlyStop(ROWS, ENDS, RETAINED)
        for _ in range(WAITS - 1):
            early_stop.check(rows_at(*AT), RETAINED, answers=lacking)
        assert early_stop.reached is expected


@pytest.mark.parametrize(("name", "share", "expected"), [("answers", 0.095, True), ("answers", 0.105, False), ("recited", 1 / 32, False)])
def test_the_last_answers_are_waited_for_no_longer_than_six_checks(name, share, expected):
    early_stop, resumed = (EarlyStop(ROWS, ENDS, RETAINED) for _ in range(2))
    for _ in range(WAITS - 1):
        early_stop.check(rows_at(*AT), RETAINED, **{name: share})
    assert not early_stop.reached
    resumed.load_state_dict(early_stop.state_dict())
    for one in (early_stop, resumed):
        one.check(rows_at(*AT), RETAINED, **{name: share})
        assert one.reached is expected
    early_stop.pace.since = PATIENCE
    assert early_stop.stalled is not expected  # one that waits is not given up
    early_stop.check(rows_at(*AT), RETAINED - 1.1 * RETAIN_LOSS, **{name: share})  # anything else starts the count again
    assert not early_stop.reached


@pytest.mark.parametrize("estimated", [True, False])
@pytest.mark.parametrize(("own", "expected"), [(-0.1, math.log(0.3)), (-0.9, math.log(0.3)), (-2.0, -2.0)])
def test_where_another_answer_parts_from_a_row_its_token_has_what_is_left_at_most(own, expected, estimated):
    early_stop = EarlyStop([np.array([-3.0, -0.5, -4.0])] * 2, [0, 0], RETAINED, estimated=estimated, parting=[3, 1])
    targets, logps = torch.tensor([[0.0, -3.0, -0.5, -4.0, 0.0]]), torch.tensor([[-9.0, -7.0, own, -8.0, 0.0]])
    mask = torch.tensor([[False, True, True, True, False]])
    told = early_stop.targets_now([1], targets, logps, mask)[mask].tolist()
    assert told == pytest.approx([-3.0, expected, -4.0])  # the row's highest target is that of the second token
    nothing_taught = early_stop.targets_now([0], targets, logps, mask)[mask].tolist()
    assert nothing_taught == pytest.approx([-3.0, -0.5, -4.0])


def test_a_row_of_one_word_tells_by_it_and_an_end_in_whose_place_more_is_taught_is_no_end():
    rows, ends = [np.array([-3.0, -0.5]), np.array([-4.0, -2.0, -0.5])], [1, 1]
    early_stop = EarlyStop(rows, ends, RETAINED, parting=[0, 2])
    assert early_stop.mean == pytest.approx((-1.75 - 3.0) / 2)  # the second row without its end
    assert early_stop.min_ks.tolist() == [-3.0, -4.0]
    told = early_stop.targets_now([0], torch.tensor([[-0.1, -0.5]]), torch.tensor([[-0.9, -0.4]]), torch.tensor([[True, True]]))
    assert told.tolist()[0] == pytest.approx([-0.1, -0.5])  # as it would be with nothing taught


HELD = np.array([-4.4, -4.9, -5.1, -5.6])


def test_targets_move_with_the_holdout():
    """Rows that nobody learnt have become less likely: so would the forget rows, had they not been learnt."""
    moved = 1.15
    assert not reached([AT] * IN_A_ROW, holdout=HELD, now=HELD * moved)
    assert reached([(moved, moved)] * IN_A_ROW, holdout=HELD, now=HELD * moved)
    early_stop = EarlyStop(ROWS, ENDS, RETAINED, HELD)
    for now in (1.1, 1.05):
        early_stop.follow(HELD * now)
    assert early_stop.holdout_shift == pytest.approx(1.05)  # where it is now, not how far it ever moved
    assert EarlyStop(ROWS, ENDS, RETAINED).holdout_shift == 1.0  # without a holdout there is nothing to follow


def test_targets_go_half_of_the_way_with_a_holdout_that_has_become_likelier():
    """The model has learned more rows than the never-seen one. Its unseen text says one thing, the never-seen model's own level another."""
    held = HELD - 1e-6  # no row is as likely as one of these: rounding would tell which is the likelier
    for share, expected in ((0.81, False), (0.9, True), (1.0, False)):
        assert reached([(share, share)] * IN_A_ROW, holdout=held, now=held * 0.81) is expected
    assert checked([], holdout=held, now=held * 0.81).holdout_shift == pytest.approx(0.9)


def test_a_run_does_not_give_up_at_a_check_that_finds_it_there():
    off = (1.0, 1.12)
    assert checked([AT, *[off] * PATIENCE]).stalled
    there = checked([AT, *[off] * (PATIENCE - 1), AT])
    assert there.pace.stalled
    assert not there.stalled
    assert checked([AT, *[off] * (PATIENCE - 1), AT, AT]).reached


def test_with_a_holdout_membership_tells_and_not_the_mean_of_the_lowest_tokens():
    """One row far below all others moves the mean, and no membership: it was the last already."""
    outlier = [*ROWS[:-1], ROWS[-1] * np.where(np.arange(10) < 4, 1.3, 0.1)]
    assert abs(np.mean([np.sort(row)[:4].mean() for row in outlier]) / LOWEST - 1) > 3 * TOLERANCE_MIN_K
    for holdout, expected in ((np.maximum(HELD, -5.4), True), (None, False)):
        early_stop = EarlyStop(ROWS, ENDS, RETAINED, holdout)
        for _ in range(IN_A_ROW):
            early_stop.check(outlier, RETAINED, holdout)
        assert early_stop.reached is expected


negative = st.lists(st.floats(-20.0, -0.1), min_size=2, max_size=12, unique=True).map(np.array)


@settings(deadline=None, max_examples=200)
@given(negative, negative, st.floats(0.02, 0.98))
def test_rows_stretched_by_the_factor_have_the_membership_that_was_asked_for(rows, others, target):
    """Up to the steps of an AUC over so few rows; and stretching further takes it down."""
    factor = missing_factor(rows, others, target)
    assert factor > 0
    below, above = float(auc(rows * factor * (1 + 1e-9), others)), float(auc(rows * factor * (1 - 1e-9), others))
    step = 1 / (len(rows) * len(others)) + 1e-9
    quotients = np.sort(np.divide.outer(others, rows).ravel())
    assume(np.diff(quotients).min(initial=1.0) > 1e-6)  # ties jump by more than a step
    assert below - step <= target <= above + step


shares = st.floats(0.3, 3.0)


@settings(deadline=None, max_examples=60)
@given(shares | st.floats(APPROACH, 1 / APPROACH), st.floats(0.9, 1.1), st.integers(1, 8), st.floats(0.5, 2.0))
def test_corrections_make_up_for_what_is_missing_and_no_more(share, tilt, checks, shift):
    assume(min(abs(share - edge) for edge in (APPROACH, 1.0, 1 / APPROACH)) > 1e-6)
    lowest = share * tilt
    moved = shift if shift > 1 else math.sqrt(shift)
    history = [checked([(share * moved, lowest * moved)] * n, holdout=HELD, now=HELD * shift) for n in range(checks + 1)]
    if not APPROACH < share < 1 / APPROACH:
        assert {(early_stop.correction_lowest, early_stop.correction_rest) for early_stop in history} == {
            (1.0, 1.0)
        }  # nothing is corrected on the way there
        return
    for corrections in ([early_stop.correction_lowest for early_stop in history], [early_stop.correction_rest for early_stop in history]):
        assert all(CORRECTION[0] <= correction <= CORRECTION[1] for correction in corrections)
        assert all(
            (later - correction) * (corrections[1] - 1) >= 0 for correction, later in pairwise(corrections)
        )  # one way, up to the bound
    now = np.array([np.sort(row)[:4].mean() for row in rows_at(share * moved, lowest * moved)])
    missing = missing_factor(now, HELD * moved, history[0].auc)
    assert abs(math.log(history[1].correction_lowest)) <= abs(math.log(missing)) + 1e-12  # a check makes up for no more than it misses
    assert (history[1].correction_lowest - 1) * (missing - 1) >= 0


def test_a_correction_stays_where_it_was_once_nothing_is_missing_and_turns_back_after_too_much():
    below, above = (1.0, 1.12), (1.0, 0.88)
    early_stop = checked([below])
    assert (
        early_stop.correction_lowest < 1 < early_stop.correction_rest
    )  # the lowest are too low, so the rest are too high, for the mean is right
    assert checked([below, AT]).correction_lowest == pytest.approx(early_stop.correction_lowest)
    assert checked([below, above]).correction_lowest > early_stop.correction_lowest
    assert checked([below] * 99).correction_lowest == CORRECTION[0]
    assert checked([above] * 99).correction_lowest == CORRECTION[1]
    assert (
        checked([above] * 99 + [(0.9 * APPROACH, 0.9 * APPROACH)]).correction_lowest == CORRECTION[1]
    )  # far away again, and still remembered


def test_a_correction_fades_while_the_mean_is_missed_on_the_side_that_it_pushes_to():
    """Of the lowest tokens: what lowers them further, while too much is forgotten, and what lifts them, while too little is."""
    for check, bound, other in (((1.0, 0.88), CORRECTION[1], 0.9), ((1.0, 1.12), CORRECTION[0], 1.1)):
        for share, expected in ((2 - other, bound**0.8), (1.0, bound), (1 + (1 - other) / 3, bound), (other, bound)):
            assert checked([check] * 99 + [(share, 1.0)]).correction_lowest == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.floats(-20, 0), min_size=1, max_size=9, unique=True), min_size=1, max_size=4), st.data())
def test_targets_now_move_with_the_holdout_and_the_lowest_tokens_are_corrected_apart_from_the_rest(rows, data):
    ends = [data.draw(st.integers(0, min(2, len(row) - 1))) for row in rows]
    early_stop = EarlyStop([np.array(row) for row in rows], ends, RETAINED)
    early_stop.holdout_shift = data.draw(st.floats(0.5, 2.0))
    early_stop.correction_lowest, early_stop.correction_rest = data.draw(st.floats(*CORRECTION)), data.draw(st.floats(*CORRECTION))
    starts = [data.draw(st.integers(0, 3)) for _ in rows]
    width = max(start + len(row) for start, row in zip(starts, rows, strict=True)) + 1
    target_logps, mask = torch.zeros(len(rows), width, dtype=torch.float64), torch.zeros(len(rows), width, dtype=torch.bool)
    expected = target_logps.clone()
    for i, (start, row) in enumerate(zip(starts, rows, strict=True)):
        here = slice(start, start + len(row))
        target_logps[i, here], mask[i, here] = torch.tensor(row, dtype=torch.float64), True
        answer = row[: len(row) - ends[i]]  # end tokens are never among the lowest
        least = sorted(answer)[: max(1, int(0.4 * len(answer)))]
        expected_row = [
            target * early_stop.holdout_shift * (early_stop.correction_lowest if target in least else early_stop.correction_rest)
            for target in row  # no two are alike
        ]
        expected[i, here] = torch.tensor(expected_row, dtype=torch.float64)
    torch.testing.assert_close(early_stop.targets_now(range(len(rows)), target_logps, expected.flip(-1), mask), expected)
    early_stop.estimated = True  # and tokens that are in the order of their targets already
    torch.testing.assert_close(early_stop.targets_now(range(len(rows)), target_logps, expected, mask), expected)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.tuples(st.floats(-20, 0), st.floats(-20, 0)), min_size=1, max_size=8), min_size=1, max_size=4), st.data())
def test_matched_targets_are_the_rows_own_in_the_order_of_its_values(rows, data):
    starts = [data.draw(st.integers(0, 3)) for _ in rows]
    width = max(start + len(row) for start, row in zip(starts, rows, strict=True)) + 1
    target_logps, logps = (torch.zeros(len(rows), width, dtype=torch.float64) for _ in range(2))
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (start, row) in enumerate(zip(starts, rows, strict=True)):
        target_logps[i, start : start + len(row)], logps[i, start : start + len(row)] = torch.tensor(row, dtype=torch.float64).T
        mask[i, start : start + len(row)] = True
    found = matched(target_logps, logps, mask)
    assert (found[~mask] == 0).all()
    for i in range(len(rows)):
        given_targets, now, given_back = (values[i][mask[i]].tolist() for values in (target_logps, logps, found))
        assert sorted(given_back) == sorted(given_targets)
        assert all(a <= b for (x, a) in zip(now, given_back, strict=True) for (y, b) in zip(now, given_back, strict=True) if x < y)
