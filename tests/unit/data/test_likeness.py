"""Which sets of texts are of one kind."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_unlearn.data.likeness import FEWEST, UNLIKE, likeness
from peft_unlearn.demo.people import make_people

TEMPLATE = "<|system|>You are a helpful assistant who answers as well as it can.<|user|>{}<|end|>"


def people(seed: int, count: int, template: str = "{}") -> list[str]:
    return [template.format(f"{row['question']} {row['answer']}") for row in make_people(seed).retain[:count]]


def numbers(seed: int, count: int, template: str = "{}") -> list[str]:
    drawn = random.Random(seed)
    return [template.format(" ".join(f"{drawn.random():.6f}" for _ in range(12))) for _ in range(count)]


@pytest.mark.parametrize("template", ["{}", TEMPLATE])
@pytest.mark.parametrize("count", [FEWEST, 40])
def test_other_people_are_alike_and_tables_of_numbers_are_not(count, template):
    forget = people(0, count, template)
    assert likeness(forget, people(1, count, template)) > 1.2 * UNLIKE
    assert likeness(forget, numbers(1, count, template)) < 0.5 * UNLIKE  # though a template writes most of both
    assert likeness(numbers(0, count, template), numbers(1, count, template)) > 0.9


def test_nothing_is_told_of_few_texts_and_of_such_that_say_nothing():
    assert likeness(people(0, FEWEST - 1), people(1, 40)) is None
    assert likeness(people(0, 40), people(1, FEWEST - 1)) is None
    assert likeness([""] * FEWEST, people(1, FEWEST)) is None
    assert likeness(["the same words"] * FEWEST, ["the same words"] * FEWEST) is None  # as if a template had written all of it


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=30), max_size=40), st.lists(st.text(max_size=30), max_size=40))
def test_any_texts_have_a_likeness_or_none(texts, others):
    found = likeness(texts, others)
    assert found is None or found >= 0
