"""Files of text: a wrapped book is one text again, whatever stands in it keeps its own line breaks, and what was read is told."""

import gzip
import logging
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_unlearn.data import load
from peft_unlearn.data.documents import unwrapped
from peft_unlearn.data.groups import find
from peft_unlearn.util.errors import UserError

PARAGRAPHS = [
    "Ann Berg came down the hill before the bells had rung, with a basket of wool on her arm and the letter that nobody was to see.",
    "She did not stop at the well. The boy who kept the ferry called out to her, but the river was loud with melting snow, and so she "
    "heard neither her name nor the warning.",
    "“You are late,” said the miller. He had waited since dawn, and his tea was cold; he poured it out on the stones without a word.",
]
BOOK = "\n\n".join(PARAGRAPHS)
VERSE = "The river ran,\nThe river ran away,\nAnd Ann began\nTo count the day."
FACTS = "".join(f"{name} lives at {number} Hill Road in {town}.\n" for number, name in enumerate(("Ann", "Bob", "Christopher", "Dee") * 3)
                for town in ("Oslo", "Bergen"))  # fmt: skip


def wrap(text, width):
    return "\n\n".join("\n".join(textwrap.wrap(block, width)) for block in text.split("\n\n"))


@pytest.mark.parametrize("width", [50, 65, 72, 80, 100])
def test_a_book_that_was_wrapped_is_what_it_was(width):
    assert wrap(BOOK, width) != BOOK
    assert unwrapped(wrap(BOOK, width)) == BOOK


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.lists(st.sampled_from(["a", "tree", "by", "longer"]), min_size=30), min_size=1, max_size=4))
def test_wrapping_is_undone_whatever_the_words(words):
    """Against the standard library's own wrapping."""
    text = "\n\n".join(" ".join(some) for some in words)
    assert unwrapped(wrap(text, 70)) == text


@pytest.mark.parametrize("text", [VERSE, FACTS.strip(), BOOK, "first line\nsecond line", "One.\nTwo.\nThree.", ""])
def test_other_line_breaks_are_kept(text):
    assert unwrapped(text) == text


def test_in_one_file_prose_is_joined_and_the_rest_kept():
    notes = f"# The mill\n\n{wrap(BOOK, 72)}\n\n{VERSE}\n\n- wool\n- tea\n\n| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert unwrapped(notes) == notes.replace(wrap(BOOK, 72), BOOK)


def test_markdown_that_follows_a_wrapped_paragraph_without_a_blank_line_is_kept():
    prose = textwrap.fill(PARAGRAPHS[1], 60)
    assert unwrapped(f"{prose}\n- wool\n- tea\n\n{wrap(BOOK, 60)}") == f"{PARAGRAPHS[1]}\n- wool\n- tea\n\n{BOOK}"


def test_scripts_without_spaces_are_joined_without_one():
    line = "她于一九七五年出生在上海的一个小村庄后来搬到北京在那里的一所学校教书多年并且写了一本关于河流与山谷的书深受读者喜爱人人称赞"
    text = line * 3
    assert unwrapped("\n".join(textwrap.wrap(text, 45))) == text


def test_blank_lines_may_hold_spaces_and_a_hyphen_goes_on_without_one():
    blocks = wrap(BOOK, 60).split("\n\n")
    assert unwrapped("\n \t\n\n".join(blocks)) == BOOK
    hyphen = (
        "the river with its well-\nknown stones and the slow brown water that Ann had\nseen every morning of her life since she was\nable"
    )
    assert "well-known" in unwrapped(hyphen)


def test_a_file_is_one_text_or_as_many_as_asked_for(tmp_path, caplog):
    (tmp_path / "moby.txt").write_text(wrap(BOOK, 70), newline="\r\n")
    path = str(tmp_path / "moby.txt")
    with caplog.at_level(logging.INFO):
        assert load(path, name="forget_dataset")["text"][:] == [BOOK]
        assert load({"path": path, "sample_by": "paragraph"}, name="x")["text"][:] == PARAGRAPHS
    assert "forget_dataset: moby.txt: 1 text, 3 paragraphs, wrapped lines joined" in caplog.text
    assert "x: moby.txt: 3 texts, a paragraph each, wrapped lines joined" in caplog.text
    lines = load({"path": path, "sample_by": "line"}, name="x")["text"][:]
    assert lines == [line for line in wrap(BOOK, 70).split("\n") if line]
    assert load({"path": path, "sample_by": "line", "split": "train[1:3]"}, name="x")["text"][:] == lines[1:3]
    with pytest.raises(UserError, match="sample_by is 'page', write document, paragraph or line"):
        load({"path": path, "sample_by": "page"}, name="x")


def test_a_folder_is_a_text_a_file(tmp_path, caplog):
    """The names of splits, such as test, are names of files as any other."""
    (tmp_path / "part").mkdir()
    for number, file in enumerate(("a.txt", "part/b.md", "test.txt")):
        (tmp_path / file).write_text(PARAGRAPHS[number])
    (tmp_path / "z.txt.gz").write_bytes(gzip.compress(b"The end."))
    with caplog.at_level(logging.INFO):
        rows = load(str(tmp_path), name="forget_dataset")
    assert rows["text"][:] == [*PARAGRAPHS, "The end."]
    assert rows["document"][:] == ["a.txt", "b.md", "test.txt", "z.txt.gz"]
    assert "forget_dataset: 4 files: 4 texts, 4 paragraphs" in caplog.text
    assert len(load({"path": "text", "data_files": str(tmp_path / "*.txt")}, name="x")) == 2
    named = {"path": "text", "data_files": {"train": str(tmp_path / "a.txt"), "more": str(tmp_path / "part" / "b.md")}}
    assert load(named | {"split": "more"}, name="x")["text"][:] == PARAGRAPHS[1:2]
    with pytest.raises(UserError, match="Unknown split"):
        load({"path": str(tmp_path), "split": "test"}, name="x")


def test_paragraphs_of_a_file_belong_together(tmp_path):
    for file in ("a.txt", "b.txt"):
        (tmp_path / file).write_text(BOOK)
    rows = load({"path": str(tmp_path), "sample_by": "paragraph"}, name="x")
    assert find(rows, "x") == ([0, 0, 0, 1, 1, 1], "column document")


def test_notes_beside_rows_are_no_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "Ann."}\n')
    (tmp_path / "README.md").write_text("# About these rows")
    assert load(str(tmp_path), name="x")["text"][:] == ["Ann."]
    (tmp_path / "more.txt").write_text("Bob.")
    with pytest.raises(UserError, match="files of several kinds, json and text"):
        load(str(tmp_path), name="x")


def test_a_file_that_may_hold_a_text_a_line_is_told(tmp_path, caplog):
    for file, text in (("facts.txt", FACTS), ("book.txt", wrap(BOOK, 40))):
        (tmp_path / file).write_text(text)
        load(str(tmp_path / file), name="x")
    assert caplog.text.count("hardly a blank one") == 1
    assert "facts.txt has 24 lines and hardly a blank one, and is read as one text; if each line is a text, write" in caplog.text


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"caf\xe9", "b.txt is not in UTF-8"), ("Ann.".encode("utf-16"), "b.txt is not"), (b"a\0b", "b.txt has zero bytes")],
)
def test_a_folder_with_a_file_that_is_no_text_is_refused(content, says, tmp_path):
    (tmp_path / "a.txt").write_text("Ann.")
    (tmp_path / "b.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"^x: cannot load .*{says}"):
        load(str(tmp_path), name="x")
