"""Ranges in words, against the comparisons that the words stand for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_unlearn.util.errors import UserError
from peft_unlearn.util.ranges import Range, check_number

HOLDS = {
    "at least 0": lambda x: x >= 0,
    "above 0": lambda x: x > 0,
    "from 0 to 1": lambda x: 0 <= x <= 1,
    "from 0 to below 1": lambda x: 0 <= x < 1,
    "from -2.5 to 1e-3": lambda x: -2.5 <= x <= 1e-3,
    "above -1": lambda x: x > -1,
}


@pytest.mark.parametrize("words", HOLDS)
@given(value=st.one_of(st.floats(), st.sampled_from([0, 1, -1, 1e-3, -2.5, math.nextafter(1, 0), 5e-324, -5e-324])))
def test_a_range_holds_what_its_words_say(words, value):
    assert (value in Range(words)) == HOLDS[words](value)


@pytest.mark.parametrize("words", ["", "0 to 1", "at most 1", "between 0 and 1", "above zero", "at least", "from 0 to", "above 0 or so"])
def test_other_words_are_refused(words):
    with pytest.raises(ValueError, match="is no range, write one such as"):
        Range(words)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("high", "'high' is not a number"),
        (True, "True is not a number"),
        (None, "None is not a number"),
        (-1, "-1 is out of range, write a value of at least 0."),
        (math.nan, "nan is out of range"),
        (1.5, "1.5 is not a whole number"),
    ],
)
def test_what_is_no_number_of_the_range_is_named(value, words):
    with pytest.raises(UserError, match=f"^x: {words}"):
        check_number("x", value, Range("at least 0"), whole=True)


def test_a_whole_number_may_be_written_as_a_float():
    check_number("x", 3.0, Range("at least 0"), whole=True)
