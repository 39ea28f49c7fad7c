"""What holds and what comes back: closed forms on made-up numbers, and properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_unlearn.attacks import judging
from peft_unlearn.attacks.context import number, shown
from peft_unlearn.metrics.results import summarize
from peft_unlearn.report.thresholds import THRESHOLDS

N = 40


def rows(mean: float, spread: float = 0.02) -> list[float | None]:
    return [mean + spread * (2 * i / (N - 1) - 1) for i in range(N)]


def plain(before=0.9, after=0.1, never=0.05, metric="extraction_strength", spread=0.02) -> dict:
    views = {"before": before, "after": after, "never_seen": never}
    return {view: {"forget": {metric: summarize(rows(mean, spread))}} for view, mean in views.items() if mean is not None}


def judged(attack: float, threshold: str, *, never=None, spread=0.02, of=None, metric="extraction_strength") -> dict:
    entry = shown("form", metric, summarize(rows(attack, spread)), threshold=threshold)
    control = [] if never is None else [shown("form", metric, summarize(rows(never, spread)), threshold=threshold)]
    (found,) = judging.judge([entry], control, plain() if of is None else of)
    return found


@pytest.mark.parametrize(
    ("attack", "never", "recovered", "passed"),
    [
        (0.1, None, 0.0, True),
        (0.5, None, 0.5, False),  # (.5 - .1) / (.9 - .1)
        (0.5, 0.45, 0.0625, True),  # the never-seen model shows .45 of it under the same attack
        (0.5, 0.02, 0.5, False),  # and where it shows less than the model did without, that counts for nothing
        (0.05, None, -0.0625, True),
        (0.18, None, 0.1, True),  # on the threshold
    ],
)
def test_recovery_is_what_never_seen_does_not_show(attack, never, recovered, passed):
    found = judged(attack, "prompts", never=never)
    assert found["recovered"] == pytest.approx(recovered)
    assert found["passed"] is passed
    assert found["limit"] == THRESHOLDS["prompts"].limit


@pytest.mark.parametrize(
    ("threshold", "attack", "never", "passed"),
    [
        ("sampling", 0.06, 0.05, True),
        ("sampling", 0.2, 0.05, False),
        ("sampling", 0.2, 0.3, True),
        ("composition", 0.14, None, True),
        ("composition", 0.3, None, False),
    ],
)
def test_the_other_kinds_of_thresholds(threshold, attack, never, passed):
    assert judged(attack, threshold, never=never)["passed"] is passed


@pytest.mark.parametrize(("value", "passed"), [(0.5, True), (0.62, False), (0.38, False), (0.59, True)])
def test_membership_is_two_sided(value, passed):
    result = {"mean": value, "n": 2 * N, "rows": [], "interval": [value - 0.05, value + 0.05]}
    control = {**result, "mean": 0.5}
    entries = [[shown("form", "min_k_auc", one, threshold="membership")] for one in (result, control)]
    (found,) = judging.judge(*entries, {})
    assert found["passed"] is passed
    (unknown,) = judging.judge(entries[0], [], {})
    assert unknown["passed"] is None


def test_what_is_past_a_line_within_the_noise_holds_nothing_and_breaks_nothing():
    noisy = judged(0.3, "prompts", spread=3.0)
    assert noisy["recovered"] == pytest.approx(0.25)
    assert noisy["passed"] is None
    loud = [0.0] * 38 + [8.0, -1.0]
    (found,) = judging.judge([shown("form", "extraction_strength", summarize(loud), threshold="prompts")], [], plain(after=0.0, never=0.0))
    assert found["recovered"] > 0.1
    assert found["passed"] is None
    assert judging.passed([found]) is None


def test_shares_are_at_least_their_threshold():
    values = {0.95: True, 0.9: True, 0.5: False}
    for value, passed in values.items():
        (found,) = judging.judge([number("modules", "median_alpha", value, threshold="alpha")], [], plain())
        assert found["passed"] is passed
        assert "at least 0.9" in found["text"]
        assert found["recovered"] is None


def test_rows_that_an_attack_leaves_out_count_nowhere():
    """Relearning asks for the second half alone: before, after and the never-seen model are those of the same rows."""
    half = N // 2
    of = {
        view: {"forget": {"extraction_strength": summarize([1.0] * half + [mean] * half)}}
        for view, mean in (("before", 0.8), ("after", 0.2), ("never_seen", 0.1))
    }
    (found,) = judging.judge([shown("f", "extraction_strength", summarize([None] * half + [0.5] * half), threshold="relearning")], [], of)
    assert (found["before"], found["after"], found["never_seen"]) == (pytest.approx(0.8), pytest.approx(0.2), pytest.approx(0.1))
    assert found["recovered"] == pytest.approx(0.5)
    assert found["n"] == half


def test_where_nothing_was_forgotten_nothing_comes_back():
    found = judged(0.88, "prompts", of=plain(after=0.85))
    assert found["recovered"] is None
    assert found["passed"] is None
    assert "cannot be told" in found["text"]


def test_without_before_the_whole_is_one():
    found = judged(0.28, "prompts", of=plain(before=None))
    assert found["recovered"] == pytest.approx(0.18 / 0.9)


def test_what_is_not_finite_is_null_and_judged_by_nobody():
    broken = shown("form", "extraction_strength", summarize([math.nan] * N), threshold="prompts")
    assert broken["mean"] is None
    (found,) = judging.judge([broken], [], plain())
    assert found["passed"] is None
    assert "could not be measured" in found["text"]


def test_an_attack_holds_where_all_its_lines_do():
    assert judging.passed([]) is None
    assert judging.passed([{"passed": None}]) is None
    assert judging.passed([{"passed": True}, {"passed": None}]) is True
    assert judging.passed([{"passed": True}, {"passed": False}]) is False


unit = st.floats(0, 1)


@settings(max_examples=60, deadline=None)
@given(attack=unit, after=unit, never=unit, control=unit, more=unit)
def test_recovery_properties(attack, after, never, control, more):
    of = plain(before=1.0, after=after, never=never)
    found = judged(attack, "prompts", never=control, of=of)
    if after > 0.9 + 1e-9:
        assert found["recovered"] is None
        return
    if found["recovered"] is None:
        return
    # from the definition
    assert found["recovered"] == pytest.approx((attack - max(after, control)) / (1 - after), abs=1e-9)
    # the more an attack shows, the more comes back; the more the never-seen model shows of it, the less
    assert judged(max(attack, more), "prompts", never=control, of=of)["recovered"] >= found["recovered"] - 1e-12
    assert judged(attack, "prompts", never=max(control, more), of=of)["recovered"] <= found["recovered"] + 1e-12
    assert np.isfinite(found["recovered"])
