"""Answers that other sets give as well, beside a plain search for pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_unlearn.metrics.recites_others import LENGTH, common_runs
from peft_unlearn.metrics.said_elsewhere import said_elsewhere
from peft_unlearn.metrics.words import words

TEXTS = st.lists(st.sampled_from(["ada", "is", "a", "pilot"]), min_size=1, max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("answer", "kept", "found"),
    [
        ("Its hero is Basil the miner.", ["Whom does it follow? its hero is basil the miner, who sings"], 1),
        ("Its hero is Basil the miner.", ["Its hero is Silas the miner."], 0),
        ("Its hero is Basil the miner.", ["Its hero is Basil", "Basil the miner"], 0),  # nothing has what stands across both
        ("Its hero is Basil the miner.", ["Its hero is Basil the", "hero is Basil the miner"], 1),
        ("In Lisbon.", ["In Lisbon."], None),  # too short to tell
        ("", ["anything"], None),
    ],
)
def test_an_answer_that_stands_in_a_kept_text(answer, kept, found):
    assert said_elsewhere(answer, common_runs(kept)) == found


@given(TEXTS, st.lists(TEXTS, max_size=3))
def test_as_a_plain_search_finds_it(answer, kept):
    own = words(answer)
    pieces = [" ".join(own[at : at + LENGTH]) for at in range(len(own) - LENGTH + 1)]
    expected = all(any(f" {piece} " in f" {text} " for text in kept) for piece in pieces) if pieces else None
    assert said_elsewhere(answer, common_runs(kept)) == expected
