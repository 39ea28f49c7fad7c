"""Texts are written whole or not at all, and a full disk is told whoever says it."""

import errno
import os

import pytest
import torch
from little_room import room
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from peft_unlearn.util import disk


def test_a_text_takes_the_place_of_the_one_before(tmp_path):
    for text in ("red", "blue\r\n"):
        disk.write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_bytes() == text.encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_fails_leaves_the_old_text_and_nothing_beside_it(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    disk.write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        disk.write_text(tmp_path / "a.txt", "new")
    assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


WRITERS = {
    "python": lambda path: disk.write_text(path, "red"),
    "safetensors": lambda path: save_file({"red": torch.zeros(100)}, path),
    "tokenizers": lambda path: Tokenizer(models.WordLevel({"red": 0}, "red")).save(str(path)),
    "torch": lambda path: torch.save(torch.zeros(100_000), path),
}


@pytest.mark.parametrize("library", WRITERS)
def test_a_library_that_finds_no_room_is_told_in_a_sentence(library, tmp_path):
    with pytest.raises(Exception) as raised, room(0):  # noqa: PT011  (each library has its own)
        WRITERS[library](tmp_path / "a")
    assert disk.said(raised.value).endswith(": no room is left on the disk, make some and start again.")


def test_what_else_a_file_system_says_names_the_place():
    assert disk.said(OSError(errno.EROFS, "Read-only file system", "a/b")) == "a/b: write another place (Read-only file system)."


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "No such file", "a"), ValueError("wrong"), OSError("a library's own")])
def test_other_errors_are_not_the_disks(error):
    assert disk.said(error) is None
