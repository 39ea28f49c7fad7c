"""What holds and what comes back: closed forms on made-up numbers (scipy's t test, Fieller's interval, the binomial bound), and properties."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from peft_unlearn.attacks import judging
from peft_unlearn.attacks.context import number, plain_rows, shown
from peft_unlearn.metrics.results import summarize
from peft_unlearn.report.build import entries
from peft_unlearn.report.thresholds import THRESHOLDS

N = 40


def rows(mean: float, spread: float = 0.02, n: int = N, seed: int = 0) -> list[float | None]:
    noise = np.random.default_rng(seed).standard_normal(n)
    return list(mean + spread * (noise - noise.mean()))


def plain(before=0.9, after=0.1, never=0.05, metric="extraction_strength", spread=0.02, n=N, of="forget") -> dict:
    views = {"before": before, "after": after, "never_seen": never}
    return {
        view: {of: {metric: summarize(rows(mean, spread, n, seed))}}
        for seed, (view, mean) in enumerate(views.items(), 1)
        if mean is not None
    }


def judged(attack: float, threshold: str, *, never=None, spread=0.02, of=None, metric="extraction_strength", n=N, groups=()) -> dict:
    entry = shown("form", metric, summarize(rows(attack, spread, n)), threshold=threshold)
    control = [] if never is None else [shown("form", metric, summarize(rows(never, spread, n, 9)), threshold=threshold)]
    (found,) = judging.judge([entry], control, plain(n=n) if of is None else of, groups)
    assert found["passed"] is {"passed": True, "failed": False}.get(found["state"])
    assert (found["reason"] is None) is (found["passed"] is not None)
    return found


@pytest.mark.parametrize(
    ("attack", "never", "recovered", "state"),
    [
        (0.1, None, 0.0, "passed"),
        (0.5, None, 0.5, "failed"),  # (.5 - .1) / (.9 - .1)
        (0.5, 0.45, 0.0625, "passed"),  # the never-seen model shows .45 of it under the same attack
        (0.5, 0.02, 0.5, "failed"),  # and where it shows less than the model did without, that counts for nothing
        (0.05, None, -0.0625, "passed"),
        (0.18, None, 0.1, "not shown"),  # on the threshold
    ],
)
def test_recovery_is_what_never_seen_does_not_show(attack, never, recovered, state):
    found = judged(attack, "prompts", never=never)
    assert found["recovered"] == pytest.approx(recovered)
    assert found["state"] == state
    assert found["limit"] == THRESHOLDS["prompts"].limit


def fieller(x: np.ndarray, gap: np.ndarray) -> tuple[float, float]:
    """Fieller's 95 % interval of mean(x) / mean(gap): the roots of (x - R g)^2 = t^2 var(x - R g), for a gap that is surely above 0."""
    n, t = len(x), stats.t.ppf(0.975, len(x) - 1)
    (xx, xg), (_, gg) = np.cov(x, gap) / n
    a, b, c = gap.mean() ** 2 - t**2 * gg, -2 * (x.mean() * gap.mean() - t**2 * xg), x.mean() ** 2 - t**2 * xx
    return tuple(sorted(np.roots([a, b, c]).real))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(-0.1, 0.4), spread=st.floats(0.01, 0.3), n=st.integers(4, 60))
def test_a_recovery_passes_where_fiellers_interval_is_within_the_limit(seed, share, spread, n):
    rng = np.random.default_rng(seed)
    after, gap = 0.1 + 0.02 * rng.standard_normal(n), 0.7 + 0.1 * rng.standard_normal(n)
    back = share * 0.7 + spread * rng.standard_normal(n)
    of = {"before": after + gap, "after": after}
    of = {view: {"forget": {"probability": summarize(list(values))}} for view, values in of.items()}
    (found,) = judging.judge([shown("form", "probability", summarize(list(after + back)), threshold="prompts")], [], of)
    low, high = fieller(back, gap)
    limit = THRESHOLDS["prompts"].limit
    assume(min(abs(high - limit), abs(low - limit)) > 0.3 * (high - low))  # ours is moved for skewness, Fieller's is not
    assert found["state"] == ("passed" if high <= limit else "failed" if low > limit else "not shown")


@pytest.mark.parametrize("kind", ["sampling", "composition"])
@pytest.mark.parametrize("excess", [-0.1, 0.0, 0.01, 0.05, 0.3])
@pytest.mark.parametrize("n", [2, 12, 48])
def test_differences_are_an_equivalence_test(kind, excess, n):
    """Two one-sided t tests of 2.5 % against the limit."""
    base = np.array(rows(0.2, 0.05, n, 5))
    attacked = base + np.array(rows(excess, 0.05, n, 6))
    view = "after" if kind == "composition" else "never_seen"
    of = {view: {"forget": {"rouge_l": summarize(list(base))}}}
    (found,) = judging.judge([shown("form", "rouge_l", summarize(list(attacked)), threshold=kind)], [], of)
    limit = THRESHOLDS[kind].limit
    below, above = (stats.ttest_1samp(attacked - base, limit, alternative=side).pvalue for side in ("less", "greater"))
    assert found["state"] == ("passed" if below <= 0.025 else "failed" if above < 0.025 else "not shown")


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ((-0.05, 0.05), "passed"),
        ((-0.3, 0.05), "not shown"),
        ((0.05, 0.3), "not shown"),
        ((0.26, 0.4), "failed"),
        ((-0.4, -0.26), "failed"),
        ((-0.4, 0.4), "not shown"),
    ],
)
def test_membership_is_two_sided(ends, state):
    mean = sum(ends) / 2
    entry = shown("form", "min_k_auc", {"mean": 0.5 + mean, "n": 2 * N, "rows": [], "interval": [0.2, 0.8]}, threshold="membership")
    control = shown("form", "min_k_auc", {"mean": 0.5, "n": 2 * N, "rows": [], "interval": [0.4, 0.6]}, threshold="membership")
    (found,) = judging.judge([{**entry, "excess": list(ends)}], [control], {})
    assert found["state"] == state
    (unknown,) = judging.judge([{**entry, "excess": list(ends)}], [], {})
    assert unknown["state"] == "not measured"
    assert unknown["reason"] == "there is no never-seen model to compare with"


def test_what_is_past_a_line_within_the_noise_holds_nothing_and_breaks_nothing():
    noisy = judged(0.3, "prompts", spread=3.0)
    assert noisy["recovered"] == pytest.approx(0.25)
    assert noisy["state"] == "not shown"
    assert judging.passed([noisy]) is None
    assert judging.reason([judged(0.1, "prompts"), noisy]) == noisy["reason"] == f"not shown with {N} rows; more rows would tell"


def test_the_rows_that_would_show_it_do():
    """As many rows of the same mean and spread pass about four times in five."""
    found = judged(0.15, "prompts", spread=0.2)
    assert found["state"] == "not shown"
    needed = int(found["reason"].split("about ")[1].split()[0])
    rng, passes = np.random.default_rng(1), []
    for _ in range(200):
        of = {view: {"forget": {"probability": summarize([mean] * needed)}} for view, mean in (("before", 0.9), ("after", 0.1))}
        drawn = list(0.15 + 0.2 * rng.standard_normal(needed))
        (again,) = judging.judge([shown("form", "probability", summarize(drawn), threshold="prompts")], [], of)
        passes.append(again["state"] == "passed")
    assert 0.65 < np.mean(passes) < 0.95


@pytest.mark.parametrize("n", [1, 3, 12, 20, 40, 48, 80])
def test_rows_that_are_all_alike_show_no_more_than_their_number(n):
    """Of n rows without a leak, a share p of all rows may leak whole, where (1 - p)^n = .025: as few as may be known in a verdict that passes."""
    of = {view: {"forget": {"extraction_strength": summarize([mean] * n)}} for view, mean in (("before", 1.0), ("after", 0.0))}
    (found,) = judging.judge([shown("form", "extraction_strength", summarize([0.0] * n), threshold="prompts")], [], of)
    hidden = 1 - 0.025 ** (1 / n)
    assert found["recovered"] == 0
    assert found["state"] == ("passed" if hidden <= THRESHOLDS["known_rows"].limit else "not shown")


def test_rows_of_one_group_are_one():
    """40 rows that are 5 authors' tell less than 40 authors."""
    leak = [0.04 * (i // 8) for i in range(N)]
    of = {view: {"forget": {"probability": summarize(rows(mean))}} for view, mean in (("before", 0.9), ("after", 0.1))}
    entry = shown("form", "probability", summarize([a + b for a, b in zip(rows(0.08), leak, strict=True)]), threshold="prompts")
    (alone,), (together,) = (judging.judge([entry], [], of, groups) for groups in ((), [i // 8 for i in range(N)]))
    assert alone["state"] == "passed"
    assert together["state"] == "not shown"


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


def test_where_little_was_forgotten_the_number_is_only_reported():
    found = judged(0.88, "prompts", of=plain(after=0.85))
    assert (found["recovered"], found["limit"], found["threshold"], found["state"]) == (None, None, None, "reported")
    assert "too little of it was forgotten" in found["text"]
    assert judging.passed([found, judged(0.1, "prompts")]) is True


def test_without_before_the_whole_is_one():
    found = judged(0.28, "prompts", of=plain(before=None))
    assert found["recovered"] == pytest.approx(0.18 / 0.9)


def test_a_set_of_its_own_is_compared_with_its_own_numbers():
    """Groups are of the forget set, which may have another number of rows, or as many."""
    of = plain(never=0.1, of="two_hop", metric="probability", n=30) | {"after": plain()["after"]}
    entry = shown("form", "probability", summarize(rows(0.5, n=30)), threshold="two_hop", of="two_hop")
    (found,) = judging.judge([entry], [], of, [0] * N)
    assert found["never_seen"] == pytest.approx(0.1)
    assert found["state"] == "failed"


@pytest.mark.parametrize("lost", [1, N])
def test_a_row_that_is_not_finite_is_never_left_out(lost):
    broken = shown("form", "extraction_strength", summarize([math.nan] * lost + rows(0.1)[lost:]), threshold="prompts")
    assert broken["mean"] is None
    (found,) = judging.judge([broken], [], plain())
    assert found["state"] == "not measured"
    assert found["reason"] == f"{lost} of {N} rows are not finite"
    assert "could not be measured" in found["text"]
    assert judging.passed([found, judged(0.1, "prompts")]) is None


@pytest.mark.parametrize("view", ["before", "after", "never_seen"])
@pytest.mark.parametrize("attacked", [False, True])
def test_nor_one_of_what_it_is_compared_with(view, attacked):
    of = plain()
    of[view]["forget"]["extraction_strength"]["rows"][3] = math.nan
    of[view]["forget"] = entries({"extraction_strength": summarize(of[view]["forget"]["extraction_strength"]["rows"])})
    control = shown("form", "extraction_strength", summarize([math.inf, *rows(0.05)[1:]])) if attacked else None
    entry = shown("form", "extraction_strength", summarize(rows(0.1)), threshold="prompts")
    (found,) = judging.judge([entry], [control] if control else [], of)
    assert found["state"] == "not measured"
    assert "not finite" in found["reason"]
    assert found["passed"] is None


def test_rows_of_a_report_whose_mean_was_lost_are_not_taken_for_rows_without_a_value():
    found = entries({"loss": summarize([1.0, math.nan, None]), "zlib": summarize([1.0, None, 2.0])})
    assert np.isnan(plain_rows(found["loss"])[1])
    assert plain_rows(found["zlib"]) == [1.0, None, 2.0]


def test_an_attack_holds_where_all_its_lines_do():
    passed, failed, unsure, reported = (
        {"passed": value, "state": state, "reason": None}
        for value, state in ((True, "passed"), (False, "failed"), (None, "not shown"), (None, "reported"))
    )
    assert judging.passed([]) is None
    assert judging.passed([unsure]) is None
    assert judging.passed([passed, unsure]) is None
    assert judging.passed([passed, reported]) is True
    assert judging.passed([passed, failed, unsure]) is False
    assert judging.reason([reported]) == "its numbers are only reported"


unit = st.floats(0, 1)


@settings(max_examples=20, deadline=None)
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
