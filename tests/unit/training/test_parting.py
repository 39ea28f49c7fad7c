"""Where another answer parts from a forget row: at the first token that differs, told by its place among each one's own labels."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_answers import ALL_TOKENIZERS, OTHERS, OWN, SHAPES, encoded

from peft_unlearn.data.rows import special_ids
from peft_unlearn.training import answers
from peft_unlearn.training.parting import parted


def places(row) -> list[int]:
    """Of the label tokens that are predicted, in the row."""
    return [place for place, label in enumerate(row["labels"]) if place and label != -100]


def check(row, other):
    found = parted([{**row, "alternate": other}, {**row, "alternate": None}])
    assert found.rows[1] == len(places(row))  # nothing is taught for it
    assert (len(found.rows), len(found.answers)) == (2, 1)
    one, two = row["input_ids"], other["input_ids"]
    here = [*places(row), len(one)][found.rows[0]]
    there = [*places(other), len(two)][found.answers[0]]
    assert here == there
    assert one[:here] == two[:here]
    assert one[here : here + 1] != two[here : here + 1]
    assert found.common[1] == []
    begin = next(place for place, label in enumerate(other["labels"]) if label != -100)
    kept = [token for token, flag in zip((one[place] for place in places(row)), found.common[0], strict=True) if flag]
    rest = iter(two[begin:])
    assert all(token in rest for token in kept)  # they stand there in this order


@pytest.mark.parametrize("name", ["byte_level", "llama_style", "no_special"])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_are_one_text_up_to_there(name, shape):
    tokens = ALL_TOKENIZERS[name]
    if shape == "conversation" and not tokens.chat_template:
        return
    (row,) = encoded([SHAPES[shape](OWN)], tokens)
    for answer in (*OTHERS, "Ann lives in Rome.", "Ann lives in Oslo. And", "Ann"):
        check(row, answers.with_answer(tokens, special_ids(tokens), row, answer))


@settings(deadline=None)
@given(st.lists(st.integers(3, 5), min_size=2, max_size=9), st.lists(st.integers(3, 5), min_size=1, max_size=9), st.integers(1, 9))
def test_of_plain_text_the_answer_begins_in_its_middle(tokens, others, half):
    half = min(half, len(tokens) - 1)
    row = {"input_ids": [*tokens, 2], "labels": [*tokens, 2]}
    told = [*tokens[:half], *others, 2]
    if told == row["input_ids"]:
        return
    check(row, {"input_ids": told, "labels": [-100] * half + told[half:]})


def test_the_form_is_what_both_have():
    tokens = ALL_TOKENIZERS["byte_level"]
    (row,) = encoded([SHAPES["question and answer"]("Ann was born in Oslo, and her father was a cook.")], tokens)
    other = answers.with_answer(tokens, special_ids(tokens), row, "Ann was born in Rome, and her father was a judge.")
    flags = parted([{**row, "alternate": other}]).common[0]
    left_out = tokens.decode([row["input_ids"][place] for place, flag in zip(places(row), flags, strict=True) if not flag])
    assert left_out.replace(" ", "") == "Oslocook"
