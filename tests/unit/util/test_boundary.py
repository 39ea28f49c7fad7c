"""Whatever a library raises is one sentence with its key; what a program is stopped by, and our own sentences, pass."""

import errno

import pytest

from peft_unlearn.cli import main
from peft_unlearn.util.boundary import LONGEST, boundary
from peft_unlearn.util.errors import UserError, printable


class PanicException(BaseException):
    """What Rust code raises is called so, and is no Exception."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no such thing.\nSee the manual."), "key: it cannot be read (no such thing. See the manual); write another."),
        (KeyError("nope"), "key: it cannot be read (KeyError: 'nope'); write another."),
        (RecursionError(), "key: it cannot be read (RecursionError); write another."),
        (
            ImportError("it needs x (`pip install x`)"),
            "key: it cannot be read (it needs x (`pip install x`)); install that, or write another.",
        ),
        (PanicException("index out of range"), "key: it cannot be read (PanicException: index out of range); write another."),
        (ValueError("red\x1b[31m"), "key: it cannot be read (red [31m); write another."),
    ],
)
def test_what_a_library_raises_is_one_sentence(error, said):
    with pytest.raises(UserError) as found, boundary("key: it cannot be read", "write another"):
        raise error
    assert str(found.value) == said
    assert found.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 4 bytes")])
def test_too_little_memory_is_told_as_such(error):
    with pytest.raises(UserError, match="the memory is too small for it"), boundary("key: it cannot be read", "write stack"):
        raise error


def test_a_long_message_is_cut():
    with pytest.raises(UserError) as found, boundary("key: no", "write another"):
        raise ValueError("word " * 1000)
    assert len(str(found.value)) < LONGEST + 50


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), UserError("rows: none.")])
def test_what_is_no_library_error_passes(error):
    with pytest.raises(type(error)) as found, boundary("key: no", "write another"):
        raise error
    assert found.value is error


def test_a_boundary_may_be_crossed_twice():
    twice = boundary("key: no", "write another")
    for _ in range(2):
        with pytest.raises(UserError), twice:
            raise ValueError("x")


def test_control_characters_of_a_name_do_not_reach_a_terminal(capsys):
    assert printable("a\0b\x1b[31mc\udcffé") == r"a\x00b\x1b[31mc\udcffé"
    assert str(UserError("key: a\rb is wrong.")) == r"key: a\rb is wrong."  # from Python as well
    assert main(["train", "no\x1b[31m.yaml"]) == 2
    assert capsys.readouterr().err.rstrip("\n").isprintable()


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_what_a_file_system_refuses_is_one_sentence(number, monkeypatch, capsys):
    def refuse(options):
        raise OSError(number, "reason", "place")

    monkeypatch.setattr("peft_unlearn.cli.keys.main", refuse)
    assert main(["keys"]) == 2
    assert capsys.readouterr().err == "peft-unlearn: error: place: write another place (reason).\n"
