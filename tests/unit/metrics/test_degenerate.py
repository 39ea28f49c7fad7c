"""Loops: counted by hand, by regular expressions, and on ordinary sentences."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_unlearn.metrics.degenerate import MAX_WORD, degenerate, distinct

SENTENCES = [
    "Yes.",
    "No, no, no.",
    "1,000,000,000,000",
    "Ada is a pilot from Heron Bay, and has been one since her father left for Salt Moor.",
    "He lives by the sea. He lives by the sea.",  # twice may happen
    "Кори чинит часы в маленькой лавке у гавани, и все часы отстают.",
    "科林在港口旁的一家小店里修钟，每一座钟都走得很慢，可是镇上的人从来不抱怨，因为没有人需要准时。",
    "いいえ、いいえ、いいえ、そうではありません。",
    "ไม่ ไม่ ไม่",
    "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz",
]
LOOPS = [
    "",
    " \n\t ",
    "the the the the the the",
    "He lives by the sea. He lives by the sea. He lives by the sea.",
    "The answer is a house, a house, a house, a house, a house, a house, a house, a house, a house",
    "!" * 40,
    "哈哈" * 20,
    "です" * 9,
    "出身地は出身地は出身地は出身地は出身地は。",
    "東京 東京東京東京東京東京東京 東京東京",
    "ไม่" * 6,
    "The answer is " + "ha" * 100,
]


@pytest.mark.parametrize("answer", SENTENCES)
def test_ordinary_answers_are_not_degenerate(answer):
    assert degenerate(answer) == 0.0


@pytest.mark.parametrize("answer", LOOPS)
def test_empty_and_repetitive_answers_are_degenerate(answer):
    assert degenerate(answer) == 1.0


def test_distinct_counts_different_bigrams():
    words = ["a", "b", "a", "b", "a", "c"]  # ab ba ab ba ac
    assert distinct(words, 2) == 3 / 5
    assert distinct("abab", 4) == 1.0
    assert distinct("ababab", 4) == 2 / 3  # abab baba abab


@given(st.lists(st.sampled_from(["sea", "Sea", "salt", "moor", "heron"]), min_size=6, max_size=40))
def test_degenerate_is_the_share_of_bigrams_seen_before(words):
    """A loop: more than half of the bigrams stand somewhere to their left as well. Upper and lower case are one."""
    pairs = [" ".join(pair).lower() for pair in itertools.pairwise(words)]
    before = sum(pair in pairs[:i] for i, pair in enumerate(pairs))
    assert degenerate("  \n".join(words)) == float(before / len(pairs) > 0.5)


@given(st.text(alphabet="ab字", min_size=1, max_size=5), st.integers(8, 30))
def test_any_short_piece_repeated_often_is_a_loop_with_and_without_spaces(piece, times):
    assert degenerate(" ".join([piece] * times)) == 1.0
    if len(piece) * times > MAX_WORD + len(piece):
        assert degenerate(piece * times) == 1.0


@given(st.text(max_size=60))
def test_zero_or_one_for_any_text(answer):
    assert degenerate(answer) in (0.0, 1.0)


def test_regular_white_space_does_not_matter():
    assert [degenerate(re.sub(" ", "\n ", answer)) for answer in LOOPS + SENTENCES] == [1.0] * len(LOOPS) + [0.0] * len(SENTENCES)
