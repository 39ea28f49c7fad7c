"""A folder is whole only where every file has the bytes that were written."""

import json

import pytest

from peft_unlearn.util import manifest

FACTS = {"step": 3, "rates": [0.1, 1e-9]}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    (tmp_path / "in" / "b.json").write_text("{}")
    manifest.write(tmp_path, FACTS)
    return tmp_path


def test_a_whole_folder_gives_its_facts_also_with_a_file_more(folder):
    (folder / "note.txt").write_text("mine")
    assert manifest.read(folder) == FACTS


DAMAGE = {
    "cut": lambda data: data[:-1],
    "emptied": lambda data: b"",
    "a bit flipped": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "its last bit flipped": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "longer": lambda data: data + b"\n{}",
    "no text": lambda data: b"\xff" * len(data),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", ["a.bin", "in/b.json", manifest.FILE])
def test_each_damage_of_each_file_is_told_by_its_name(folder, name, how):
    path = folder / name
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    with pytest.raises(manifest.Damaged, match=f"^{name} "):
        manifest.read(folder)


@pytest.mark.parametrize("name", ["a.bin", "in/b.json", manifest.FILE])
def test_a_file_that_is_gone_or_is_a_folder_is_told(folder, name):
    (folder / name).unlink()
    with pytest.raises(manifest.Damaged, match=f"^{name} is missing"):
        manifest.read(folder)
    (folder / name).mkdir()
    with pytest.raises(manifest.Damaged, match=f"^{name} is missing"):
        manifest.read(folder)


@pytest.mark.parametrize("change", [{"facts": {"step": 4}}, {"files": {}}, {"files": 3}, {"files": {"a.bin": {}}}, {"sha256": None}])
def test_a_manifest_that_was_changed_is_told(folder, change):
    path = folder / manifest.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(manifest.Damaged, match=manifest.FILE):
        manifest.read(folder)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "[" * 10_000])
def test_a_manifest_that_is_something_else_is_told(folder, text):
    (folder / manifest.FILE).write_text(text)
    with pytest.raises(manifest.Damaged, match=manifest.FILE):
        manifest.read(folder)
