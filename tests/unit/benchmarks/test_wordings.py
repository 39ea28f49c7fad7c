"""By which rule a wording was made."""

from collections import Counter

import pytest
from wordings import AS_ASKED, asked, rule


@pytest.mark.parametrize(
    ("wording", "expected"),
    [
        ("Where was Ann Lee born?", AS_ASKED),
        ("where was ann lee born", "without capitals and punctuation"),
        ("I keep forgetting this: where was Ann Lee born?", "keep forgetting"),
        ("Ann Lee was born in", "English of another form"),
        ("“Where was Ann Lee born?”", "in quotation marks"),
        ("Where was Ann Lee born?\nWhere was Ann Lee born?", "twice"),
    ],
)
def test_a_wording_tells_its_rule(wording, expected):
    assert rule("Where was Ann Lee born?", wording) == expected


def test_a_row_is_asked_as_it_stands_and_in_three_other_wordings():
    found = asked([{"question": "Where was Ann Lee born?", "answer": "In Rome."}])
    assert Counter(name for name, _ in found)[AS_ASKED] == 1
    assert len(found) == 4
    assert {row["answer"] for _, row in found} == {"In Rome."}
