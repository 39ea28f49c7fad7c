import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_unlearn.training.bigram import guesses

VOCABULARY = 5
ids = st.lists(st.integers(0, VOCABULARY - 1), min_size=2, max_size=6)


def row(tokens, prompt=1):
    return {"input_ids": tokens, "labels": [-100] * prompt + tokens[prompt:]}


def plain(tokens, others, place):
    """Witten-Bell by counting in the text of the other rows."""
    words = [token for other in others for token in other]
    pairs = [pair for other in others for pair in itertools.pairwise(other)]
    p = 1 / VOCABULARY
    if words:
        p = (words.count(tokens[place]) + len(set(words)) * p) / (len(words) + len(set(words)))
    behind = [after for before, after in pairs if before == tokens[place - 1]]
    if behind:
        p = (behind.count(tokens[place]) + len(set(behind)) * p) / (len(behind) + len(set(behind)))
    return math.log(p)


@settings(deadline=None, max_examples=100)
@given(st.lists(ids, min_size=1, max_size=4), st.lists(ids, max_size=3), st.integers(0, 1))
def test_each_token_is_guessed_by_the_bigrams_of_all_other_rows(rows, others, prompt):
    found = guesses([row(tokens, prompt) for tokens in rows], [row(tokens) for tokens in others], VOCABULARY)
    for number, tokens in enumerate(rows):
        rest = rows[:number] + rows[number + 1 :] + others
        np.testing.assert_allclose(found[number], [plain(tokens, rest, place) for place in range(1, len(tokens))])


def test_guesses_of_all_tokens_sum_to_one():
    others = [row([0, 1, 2, 1, 3]), row([1, 3, 3])]
    shares = [math.exp(guesses([row([1, token])], others, VOCABULARY)[0][0]) for token in range(VOCABULARY)]
    assert sum(shares) == pytest.approx(1.0)
    assert shares[3] == max(shares)  # it follows 1 most often
