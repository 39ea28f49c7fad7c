"""The three-sample test: its false-positive rate, what it sees, and where it says nothing."""

import math

import numpy as np
import pytest

from peft_unlearn.metrics.three_samples import three_samples


def planted(rng, n: int, at: float, ids: np.ndarray, noise=np.random.Generator.normal) -> dict:
    """Rows with three numbers, `after` standing at `at` of the way from before to never-seen, but for noise that rows of a group share."""
    before = rng.normal(size=(n, 3)) * [1, 10, 0.1]
    way = np.abs(rng.normal(size=(n, 3))) * [1, 10, 0.1] + [0.5, 5, 0.05]
    return three_samples(before, before + (at + 0.4 * noise(rng, size=(n, 3))[ids]) * way, before + way, ids)


@pytest.mark.parametrize(("n", "size"), [(6, 1), (20, 1), (120, 10)])
def test_a_model_in_the_middle_is_called_nearer_to_a_side_in_at_most_5_of_100_cases(n, size):
    rng, ids = np.random.default_rng(0), np.arange(n) // size
    found = [planted(rng, n, 0.5, ids) for _ in range(600)]
    assert np.mean([one["nearer_to"] is not None for one in found]) < 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 600)
    p = np.array([one["p"] for one in found])
    assert np.mean(p < 0.5) == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize(
    ("at", "nearer"), [(0.0, "before"), (0.25, "before"), (0.75, "never_seen"), (1.0, "never_seen"), (2.0, "never_seen")]
)
def test_planted_models_are_nearer_to_where_they_stand(at, nearer):
    rng = np.random.default_rng(1)
    found = [planted(rng, 24, at, np.arange(24)) for _ in range(40)]
    assert sum(one["nearer_to"] == nearer for one in found) >= 38
    assert np.mean([one["share"] for one in found]) == pytest.approx(at, abs=0.05)
    assert nearer.replace("_", "-") in found[0]["text"]


def test_the_sides_change_places():
    rng = np.random.default_rng(2)
    before, after, never = rng.normal(size=(3, 12, 2))
    one, other = three_samples(before, after, never), three_samples(never, after, before)
    assert one["p"] == pytest.approx(other["p"])
    assert one["share"] == pytest.approx(1 - other["share"])


@pytest.mark.parametrize("n", [0, 1, 5])
def test_fewer_than_six_rows_or_groups_give_a_reason(n):
    rows = np.random.default_rng(3).normal(size=(3, n, 2))
    found = three_samples(*rows)
    assert found["nearer_to"] is found["p"] is None
    assert f"{n} rows" in found["text"]
    many = np.random.default_rng(3).normal(size=(3, 40, 2))
    assert "4 groups" in three_samples(*many, np.arange(40) % 4)["text"]


def test_rows_that_are_not_finite_give_a_reason_and_rows_without_a_number_are_left_out():
    before, after, never = np.random.default_rng(4).normal(size=(3, 12, 2)).tolist()
    after[3][1] = None
    assert three_samples(before, after, never)["n"] == 11
    never[5][0] = math.nan
    found = three_samples(before, after, never)
    assert found["nearer_to"] is None
    assert "1 of 11 rows are not finite" in found["text"]


def test_models_that_are_all_one_say_nothing():
    rows = np.ones((12, 2))
    assert three_samples(rows, rows + 1, rows)["nearer_to"] is None
    exact = three_samples(rows, rows * 2, rows * 2)
    assert (exact["nearer_to"], exact["p"], exact["share"]) == ("never_seen", 2.0**-11, 1)
