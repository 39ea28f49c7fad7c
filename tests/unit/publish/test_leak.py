"""Texts of the forget set in files that are to be published."""

import pytest

from peft_unlearn.publish.leak import leaks

ROWS = [
    {"question": "Where was Ada born?", "answer": "Ada was born in the old town of Drift Reach on a Monday."},
    {"text": "Ada Lovelace Byron"},
]


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("The model forgot a person.", None),
        ("It was born in the old days of the town.", None),  # five words in a row by chance
        ("born in the old town of", 0),
        ("> BORN in\n> the *old* town, of Drift", 0),
        ("where was ada born", 0),
        ("ada lovelace byron", 1),
        ("ada lovelace", None),
    ],
)
def test_a_leak_is_six_words_in_a_row_or_a_whole_short_text(text, row):
    assert leaks({"README.md": text}, ROWS) == ({} if row is None else {"README.md": row})


def test_every_form_of_a_row_is_looked_at_and_words_are_whole():
    chat = {"messages": [{"role": "user", "content": "who"}, {"role": "assistant", "content": ["red green blue"]}]}
    assert leaks({"a": "a red green blue car", "b": "tired green blue", "c": "red green bluebell"}, [chat]) == {"a": 0}
