"""Answers to give in place of the forgotten ones."""

import pytest
from datasets import Dataset
from word_rows import tokenizer

from peft_unlearn import data
from peft_unlearn.data import formats
from peft_unlearn.data.alternates import REFUSALS
from peft_unlearn.util.errors import UserError

QUESTIONS = Dataset.from_list(
    [
        {"question": f"Who is {name}?", "answer": f"{name} paints.", "alternate_answer": f"{name} sings.", "source": "x"}
        for name in "ABCDEFGH"
    ]
)
PROMPTS = Dataset.from_list(
    [{"prompt": f"w{i} w{i + 1}", "completion": f" w{i + 2} w{i + 3}", "alternate_completion": f" w{i + 4}"} for i in range(30, 50)]
)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who is A?"},
    {"role": "assistant", "content": "A paints."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "In Rome."},
]


@pytest.mark.parametrize(("dataset", "columns"), [(QUESTIONS, ["question", "answer"]), (PROMPTS, ["prompt", "completion"])])
def test_the_column_takes_the_answers_place_and_the_question_stays(dataset, columns):
    found = data.alternates(dataset, "column", seed=0)
    assert found.column_names == columns
    assert list(found[columns[0]]) == list(dataset[columns[0]])
    assert list(found[columns[1]]) == list(dataset[f"alternate_{columns[1]}"])


@pytest.mark.parametrize(
    ("dataset", "columns", "before"), [(QUESTIONS, ["question", "answer"], ""), (PROMPTS, ["prompt", "completion"], " ")]
)
def test_refusals_are_drawn_by_the_seed_and_need_no_column(dataset, columns, before):
    bare = dataset.select_columns(columns)
    drawn = [list(data.alternates(bare, "refuse", seed=seed)[columns[1]]) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) > 3
    assert set(drawn[0] + drawn[2]) <= {before + phrase for phrase in REFUSALS}
    assert list(data.alternates(dataset, "refuse", seed=0)[columns[1]]) == drawn[0]  # a column that is there is not read
    assert set(data.alternates(bare, "refuse", seed=0, varied=False)[columns[1]]) == {drawn[0][0]}


@pytest.mark.parametrize("kind", ["column", "refuse"])
def test_of_a_conversation_the_last_turn_alone_says_something_else(kind):
    said = "Non so." if kind == "refuse" else "In Oslo."
    calls = [{"role": "assistant", "content": "", "tool_calls": [{"name": "find", "arguments": {"name": "A"}}]}]
    talks = [TALK, TALK[1:], [*TALK[:4], *calls, {"role": "tool", "content": "Rome"}, TALK[4]]]
    whole = Dataset.from_list([{"messages": talk, "tools": [{"name": "find"}], "alternate_answer": "In Oslo."} for talk in talks])
    parts = Dataset.from_list([{"prompt": talk[:-1], "completion": talk[-1:], "alternate_completion": "In Oslo."} for talk in talks])
    (whole, parts) = (formats.settled(rows, "mine") for rows in (whole, parts))
    told = [list(data.alternates(rows, kind, seed=0, refusal="Non so.")) for rows in (whole, parts)]
    for talk, row, part in zip(talks, *told, strict=True):
        assert row["messages"] == [*talk[:-1], {"role": "assistant", "content": said}]
        assert row["tools"] == [{"name": "find"}]  # a template reads them, so a prompt without them would be another one
        assert part == {"prompt": talk[:-1], "completion": [{"role": "assistant", "content": said}]}


def test_a_refusal_of_ones_own_is_what_every_row_gets():
    for rows, before in ((QUESTIONS, ""), (PROMPTS, " ")):
        assert set(data.alternates(rows, "refuse", seed=0, refusal="Non so.")[rows.column_names[1]]) == {f"{before}Non so."}


def test_every_phrase_says_another_thing():
    assert len({phrase.casefold().strip(" .") for phrase in REFUSALS}) == len(REFUSALS)
    assert all(phrase == phrase.strip() and phrase.endswith(".") for phrase in REFUSALS)


def split(row):
    start = row["labels"].count(-100)
    assert row["labels"][start:] == row["input_ids"][start:]
    return row["input_ids"][:start], row["input_ids"][start:]


@pytest.mark.parametrize("kind", ["column", "refuse"])
def test_tokenized_they_differ_from_the_forget_rows_in_the_completion_alone(kind):
    forget = data.tokenize(PROMPTS, tokenizer(), 64, name="forget").rows
    other = data.tokenize(data.alternates(PROMPTS, kind, seed=0), tokenizer(), 64, name="forget").rows
    assert len(forget) == len(other)
    for i, (row, alternate) in enumerate(zip(forget, other, strict=True), 30):
        prompt, completion = split(row)
        same, instead = split(alternate)
        assert prompt == same == [i, i + 1]
        assert completion == [i + 2, i + 3, 2]
        assert instead[-1] == 2
        if kind == "column":
            assert instead == [i + 4, 2]


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([{"question": "a", "answer": "b"}], "column", "^mine: there is no column alternate_answer, add it or write answers: refuse.$"),
        ([{"prompt": "a", "completion": "b", "alternate_answer": "c"}], "column", "^mine: there is no column alternate_completion"),
        ([{"question": "a", "answer": "b", "alternate_answer": text} for text in ("c", " ")], "column", "^mine: row 2: .* is empty"),
        ([{"question": "a", "answer": "b", "alternate_answer": text} for text in (None, "c")], "column", "^mine: row 1: .* is empty"),
        ([{"question": "a", "answer": "b", "alternate_answer": ["c"]}], "column", "^mine: row 1: alternate_answer "),
        ([{"text": "a b c"}], "refuse", "^mine: its rows are plain texts, which ask for no answer; write answers: natural or none.$"),
        ([{"messages": TALK}], "column", "^mine: there is no column alternate_answer"),
        (
            [{"prompt": TALK[:-1], "completion": TALK[-1:], "alternate_completion": ""}],
            "column",
            "^mine: row 1: alternate_completion is empty",
        ),
    ],
)
def test_rows_that_give_no_alternates_are_named(rows, kind, message):
    with pytest.raises(UserError, match=message):
        data.alternates(Dataset.from_list(rows), kind, seed=0, name="mine")
