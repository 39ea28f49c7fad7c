"""Rows of one author are found by a column, by the names that neighbors share, or as pieces of one text."""

import random
from itertools import pairwise

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_level

from peft_unlearn.benchmarks.own import Own
from peft_unlearn.data import groups
from peft_unlearn.data.names import names
from peft_unlearn.data.variants import probe
from peft_unlearn.demo.people import make_people
from peft_unlearn.util.errors import UserError

FACTS = [
    "What is the largest ocean? The Pacific.",
    "Who wrote Hamlet? It was Shakespeare.",
    "At what temperature does water boil? At 100 degrees.",
    "Which metal is liquid? That is mercury.",
    "In which year did the war end? It ended in 1945.",
    "What is the capital of Peru? It is Lima.",
]

CHINESE = [
    "{}出生在哪里？出生在{}。",
    "{}什么时候出生？他于{}年出生。",
    "{}的职业是什么？在{}当医生。",
    "{}住在哪条街？住在{}的人民路。",
    "{}有宠物吗？有{}只猫。",
]
RUSSIAN = ["Где родился {}? В городе {}.", "Когда родился {}? В {} году.", "Кем работает {}? Врачом в {}.", "Где живёт {}? Дом {}."]
ARABIC = ["أين ولد {}؟ في {}.", "متى ولد {}؟ عام {}.", "ما مهنة {}؟ طبيب في {}.", "أين يسكن {}؟ شارع {}.", "ما جائزة {}؟ جائزة سنة {}."]
PEOPLE = {
    "Chinese": (CHINESE, ["张伟", "王芳", "李秀英", "刘洋", "陈静怡", "杨建国", "赵丽", "黄磊"]),
    "Russian": (RUSSIAN, ["Иван Петров", "Анна Смирнова", "Олег Кузнецов", "Мария Орлова", "Павел Зайцев", "Вера Громова"]),
    "Arabic": (ARABIC, ["خالد الحربي", "ليلى منصور", "سامي حداد", "نورة العتيبي", "يوسف شاهين", "مريم الخطيب", "طارق زيدان", "هدى السيد"]),
}


def boundaries(ids):
    return {row for row in range(1, len(ids)) if ids[row] != ids[row - 1]}


def said(rows):
    return [groups.text(row) for row in rows]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("split", "people"), [("forget", 8), ("retain", 32)])
def test_the_people_of_the_demo_are_told_apart_by_the_order_of_the_file(seed, split, people):
    ids = groups.by_names(said(getattr(make_people(seed), split)))
    true = {row for row in range(1, len(ids)) if row % 6 == 0}
    assert len(true) == people - 1
    assert len(true - boundaries(ids)) <= people // 8  # two who share a name and stand side by side
    assert len(boundaries(ids) - true) <= people // 8


def test_the_same_people_row_by_row_in_another_order_are_rows_of_their_own():
    rows = said(make_people(0).retain)
    random.Random(1).shuffle(rows)
    ids = groups.by_names(rows)
    assert len(set(ids)) > 0.9 * len(rows)


@pytest.mark.parametrize("language", PEOPLE)
def test_people_of_other_scripts_are_told_apart(language):
    templates, people = PEOPLE[language]
    rng = random.Random(0)
    rows = [template.format(name, rng.randint(10, 9999)) for name in people for template in rng.sample(templates, len(templates))]
    true = {row for row in range(1, len(rows)) if row % len(templates) == 0}
    assert len(true ^ boundaries(groups.by_names(rows))) <= 1


def test_unrelated_facts_stand_alone():
    rows = Dataset.from_dict({"text": FACTS})
    assert groups.by_names(FACTS) == list(range(len(FACTS)))
    assert groups.find(rows, "forget_dataset") == ([], "")


def test_a_set_about_one_person_is_no_group():
    rows = Dataset.from_dict(
        {"text": [f"On day {day} the {kind} went to Ann Lee." for day, kind in enumerate(["cat", "dog", "fox", "owl"])]}
    )
    assert groups.find(rows, "forget_dataset") == ([], "")


@pytest.mark.parametrize("texts", [[], ["one Ann"], ["", ""], ["?", "!", "7"]])
def test_texts_without_names_are_rows_of_their_own(texts):
    assert groups.by_names(texts) == list(range(max(len(texts), 1)))[: len(texts)]


def test_codes_and_addresses_are_names_and_years_are_not():
    found = names(["Write to ann.lee@mail.org about order 17/90210 of 1975.", "It was Ann Lee's."])
    assert found == [{"ann.lee@mail.org", "90210"}, {"Ann", "Lee", "Ann Lee"}]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=30))
def test_groups_are_numbered_in_order_without_gaps(texts):
    ids = groups.by_names(texts)
    assert len(ids) == len(texts)
    assert all(step in (0, 1) for step in (later - earlier for earlier, later in pairwise(ids)))


@pytest.mark.parametrize("values", [["a", "b", "a"], [1, 2, 1], [1.5, 2.5, 1.5], [["x"], ["y"], ["x"]], [True, False, True]])
def test_a_column_of_any_type_groups_the_rows_wherever_they_stand(values):
    rows = Dataset.from_dict({"text": FACTS[:3], "author": values, "mine": values})
    assert groups.find(rows, "forget_dataset") == ([0, 1, 0], "column author")
    assert groups.find(rows, "forget_dataset", "mine") == ([0, 1, 0], "column mine")


def test_empty_values_are_rows_of_their_own():
    assert groups.by_values(["a", None, "", " ", "a", float("nan"), float("nan"), None]) == [0, 1, 2, 3, 0, 4, 5, 6]


def test_a_column_that_repeats_nowhere_or_everywhere_gives_way_to_the_next():
    rows = Dataset.from_dict({"text": FACTS[:4], "group": [1, 2, 3, 4], "source": ["web"] * 4, "title": ["A", "A", "B", "B"]})
    assert groups.find(rows, "x") == ([0, 0, 1, 1], "column title")


def test_a_column_that_was_asked_for_and_tells_nothing_is_said(caplog):
    rows = Dataset.from_dict({"text": FACTS[:4], "topic": ["web"] * 4, "title": ["A", "A", "B", "B"]})
    assert groups.find(rows, "forget_dataset", "topic") == ([], "")
    assert "'topic' is the same in all rows of forget_dataset" in caplog.text


def test_a_column_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UserError, match="group_column: forget_dataset has no column 'autor', write one of its own: text, author"):
        groups.find(Dataset.from_dict({"text": ["a b"], "author": ["Ann"]}), "forget_dataset", "autor")


def test_conversations_are_grouped_by_what_is_said_without_the_system_turn():
    people = [name for name in ("Ann Lee", "Bob Ray") for _ in range(4)]
    rows = [
        [
            {"role": "system", "content": "You are called Max Power."},
            {"role": "user", "content": f"Ask {number} about {name}"},
            {"role": "assistant", "content": f"No {number}."},
        ]
        for number, name in enumerate(people)
    ]
    assert groups.find(Dataset.from_dict({"messages": rows}), "x") == ([0] * 4 + [1] * 4, groups.BY_NAMES)


def test_pieces_of_a_long_text_are_one_group_and_follow_the_column_of_their_text():
    texts = ["the sea was calm. " * 20, "a short one", "and the wind rose again. " * 20, "so it was"]
    tokenizer = byte_level(eos_token="</s>")
    found = probe(Dataset.from_dict({"text": texts}), tokenizer, 32, name="x")
    assert len(found.groups) == len(found.rows) > 4
    assert list(found.groups) == sorted(found.groups)
    assert (len(set(found.groups)), found.grouped_by) == (4, groups.PIECES)
    by_author = probe(Dataset.from_dict({"text": texts, "author": ["A", "A", "B", "A"]}), tokenizer, 32, name="x")
    assert by_author.grouped_by == "column author"
    assert [{0: 0, 1: 0, 2: 1, 3: 0}[group] for group in found.groups] == list(by_author.groups)
    book = probe(Dataset.from_dict({"text": texts[:1]}), tokenizer, 32, name="x")
    assert (book.groups, book.grouped_by) == ([], "")


def test_the_rows_that_are_evaluated_keep_their_groups_and_wordings():
    rows = Dataset.from_dict(
        {"question": [f"Where does {n} live?" for n in "abcdef"], "answer": list("uvwxyz"), "author": ["A", "A", "B", "B", "C", "C"]}
    )
    found = probe(rows, byte_level(eos_token="</s>"), 200, name="forget_dataset", reword=True, reword_rows=3)
    assert [bool(wordings) for wordings in found.variants["reworded"]] == [True, False] * 3
    kept = Own({"forget": found}, 3).probes["forget"]
    assert (kept.groups, kept.grouped_by) == ([0, 1, 2], "column author")
    assert kept.variants["reworded"] == [found.variants["reworded"][row] for row in (0, 2, 4)]
