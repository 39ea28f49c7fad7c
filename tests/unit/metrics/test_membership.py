"""AUCs against a loop over all pairs, and what they say of models at either end."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_unlearn.metrics.membership import auc, membership
from peft_unlearn.metrics.priv_leak import priv_leak
from peft_unlearn.metrics.results import Evaluation

VALUES = st.lists(st.integers(-4, 4) | st.floats(-9, 9), min_size=1, max_size=12)


def pairs(members, others) -> float:
    return sum((a > b) + (a == b) / 2 for a in members for b in others) / (len(members) * len(others))


def evaluated(losses: list[float | None]) -> Evaluation:
    """Rows whose metrics all follow the loss: members low in loss and zlib, high in Min-K."""
    minus = [None if loss is None else -loss for loss in losses]
    return Evaluation({"loss": losses, "zlib": losses, "min_k": minus, "min_k_pp": minus, "probability": losses}, [])


@given(VALUES, VALUES)
def test_auc_counts_pairs(members, others):
    found = auc(np.array(members, float), np.array(others, float))
    assert found == pytest.approx(pairs(members, others))
    assert auc(np.array(others, float), np.array(members, float)) == pytest.approx(1 - found)


def test_auc_goes_over_many_samples_at_once():
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 6, (4, 5, 7)).astype(float), rng.integers(0, 6, (4, 5, 3)).astype(float)
    expected = [[pairs(members[i, j], others[i, j]) for j in range(5)] for i in range(4)]
    np.testing.assert_allclose(auc(members, others), expected)


def test_members_are_low_in_loss_and_high_in_min_k():
    forget, holdout = evaluated([0.1, 0.2, 0.3, 0.2]), evaluated([2.0, 1.5, 3.0])
    for one, other, value in ((forget, holdout, 1.0), (holdout, forget, 0.0), (forget, forget, 0.5)):
        found = membership(one, other)
        assert set(found) == {"loss_auc", "zlib_auc", "min_k_auc", "min_k_pp_auc"}
        for result in found.values():
            low, high = result["interval"]
            assert low <= result["mean"] == value <= high
            assert low < high
            assert (result["rows"], result["n"]) == ([], len(one["loss"]["rows"]) + len(other["loss"]["rows"]))


def test_rows_without_a_value_are_left_out_and_infinite_ones_ranked():
    found = membership(evaluated([None, 1.0, math.inf]), evaluated([2.0, None, 3.0]))["loss_auc"]
    assert (found["mean"], found["n"]) == (0.5, 4)


@pytest.mark.parametrize(
    ("forget", "holdout", "reason"),
    [
        ([1.0], [2.0, 3.0], "1 forget and 2 holdout rows"),
        ([1.0, None], [2.0, 3.0], "1 forget and 2 holdout rows"),
        ([1.0, 2.0], [], "2 forget and 0 holdout rows"),
        ([1.0, math.nan, 2.0], [2.0, 3.0], "not finite in 1 of 5 rows"),
    ],
)
def test_too_few_rows_and_nan_give_a_reason_and_no_number(forget, holdout, reason):
    for result in membership(evaluated(forget), evaluated(holdout)).values():
        assert math.isnan(result["mean"])
        assert reason in result["reason"]
        assert "interval" not in result


@pytest.mark.parametrize(("value", "never_seen", "expected"), [(1, 0.5, -100), (0.5, 0.5, 0), (0, 0.5, 100), (0.25, 0.2, -6.25)])
def test_priv_leak_is_negative_where_forget_rows_look_like_members(value, never_seen, expected):
    assert priv_leak(value, never_seen) == pytest.approx(expected)
    assert not math.isfinite(priv_leak(value, 1.0))
