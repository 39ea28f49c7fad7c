"""The longest common run against all substrings by plain loops, and what it means of an answer."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_unlearn.metrics.longest_run import longest_run
from peft_unlearn.metrics.verbatim import verbatim
from peft_unlearn.metrics.verbatim_words import verbatim_words

TEXTS = st.lists(st.sampled_from("abc"), max_size=12)
PROSE = st.lists(st.sampled_from(["Ada", "is", "a", "pilot", "from", "Heron", "Bay", "Zürich", "時計", "42"]), min_size=1, max_size=20).map(
    " ".join
)


def substrings(words):
    return {tuple(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}


@given(TEXTS, TEXTS)
def test_the_longest_run_is_that_of_all_substrings(one, other):
    assert longest_run(one, other) == max(map(len, substrings(one) & substrings(other)), default=0)
    assert longest_run(one, other) == longest_run(other, one)


def test_words_that_are_frequent_in_a_long_text_count():
    story = ["the", "cat"] * 150  # a word of every second place is no noise here
    assert longest_run(story, ["dog", *story[:40]]) == 40


@given(PROSE, PROSE)
def test_verbatim_is_1_of_the_reference_itself_and_never_more(reference, answer):
    assert verbatim(reference, reference) == 1
    assert verbatim(reference, f"Well: {reference}, and {answer}") == 1
    assert 0 <= verbatim(reference, answer) <= 1
    assert verbatim_words(reference, answer) == verbatim_words(answer, reference)


@pytest.mark.parametrize(
    ("reference", "answer", "share", "count"),
    [
        ("Ada is a pilot from Heron Bay.", "She said that ADA is, a pilot!", 4 / 7, 4),
        ("Ada is a pilot from Heron Bay.", "Ada was a pilot of Heron Bay", 2 / 7, 2),  # five words are there, two at a time
        ("Ada is a pilot.", "", 0, 0),
        ("Ada is a pilot.", "...", 0, 0),
        ("Ада живёт в Москве", "где ада живёт", 2 / 4, 2),
        ("Größe in Zürich", "größe IN zürich", 1, 3),
        ("猫が好き", "犬が好き", 3 / 4, 3),
        ("", "Ada", None, None),
        ("…!", "…!", None, None),
    ],
)
def test_verbatim_by_hand(reference, answer, share, count):
    assert verbatim(reference, answer) == (None if share is None else pytest.approx(share))
    assert verbatim_words(reference, answer) == count


def test_400_rows_of_200_words_take_less_than_a_second():
    rng = np.random.default_rng(0)
    rows = [" ".join(f"w{i}" for i in rng.zipf(1.3, 200) % 2000) for _ in range(401)]
    begun = time.process_time()
    for one, other in itertools.pairwise(rows):
        verbatim(one, other)
    assert time.process_time() - begun < 1
