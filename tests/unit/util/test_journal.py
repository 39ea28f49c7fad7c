"""A journal grows at its end, and tells of a line that was changed, taken out or put in afterwards."""

import json

import pytest

from peft_unlearn.util import journal
from peft_unlearn.util.errors import UserError


@pytest.fixture
def path(tmp_path):
    for number in range(4):
        journal.append(tmp_path / "journal.json", {"number": number, "text": "ü"})
    return tmp_path / "journal.json"


def test_entries_come_back_in_order_each_with_its_time(path):
    entries = journal.read(path)
    assert [entry["number"] for entry in entries] == [0, 1, 2, 3]
    assert all(entry["at"].endswith("+00:00") for entry in entries)
    assert entries[0]["before"] is None
    assert journal.read(path.with_name("none.json")) == []
    assert sorted(one.name for one in path.parent.iterdir() if not one.name.startswith(".")) == ["journal.json"]


@pytest.mark.parametrize("change", ["another value", "one fewer", "one more", "another order"])
def test_a_change_before_the_last_entry_is_found(path, change):
    entries = json.loads(path.read_text(encoding="utf-8"))["entries"]
    if change == "another value":
        entries[1]["text"] = "u"
    elif change == "one fewer":
        del entries[2]
    elif change == "one more":
        entries.insert(1, entries[1])
    else:
        entries[1], entries[2] = entries[2], entries[1]
    path.write_text(json.dumps({"entries": entries}), encoding="utf-8")
    with pytest.raises(UserError, match="not what was written"):
        journal.append(path, {"number": 4})
    assert json.loads(path.read_text(encoding="utf-8"))["entries"] == entries


@pytest.mark.parametrize("text", ["[]", '{"entries": 3}', '{"entries": [3]}', "{"])
def test_what_is_no_journal_is_refused(path, text):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"journal\.json"):
        journal.read(path)
