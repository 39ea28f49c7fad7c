"""No message about rows that cannot be read tells what stands in them. `benchmarks/private.py` searches all that whole commands leave."""

import tempfile

import private
import pytest

from hostile.bed import make_bed
from peft_unlearn import data
from peft_unlearn.model import loading
from peft_unlearn.util.errors import UserError


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("private")
    make_bed(folder)
    return folder


@pytest.mark.parametrize("name", private.REFUSED)
def test_rows_that_are_refused_are_told_nowhere(name, bed, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    private.wrote(name, private.REFUSED[name])(bed)
    with pytest.raises(UserError) as error:
        rows = data.load(str(bed / "given" / name), name="forget_dataset")
        data.tokenize(rows, loading.tokenizer(bed / "base"), 32, name="forget_dataset")
    said = " ".join([str(error.value), *capfd.readouterr(), caplog.text]).encode()
    assert not [what for what, pattern in private.needles(bed).items() if pattern.search(said)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [private.TEXT, f"{{'input_ids': {list(range(3))}}} {private.OTHER_TOKEN}"])
def test_the_search_finds_what_it_is_for(content, bed, tmp_path):
    """Also packed, in part, as token ids and in a file's name."""
    (tmp_path / "plain").write_text(content)
    wanted = private.needles(bed)
    assert private.searched(tmp_path, wanted)
    (tmp_path / "plain").write_bytes(private.gzip.compress(content.encode()))
    assert private.searched(tmp_path, wanted)
    ids = loading.tokenizer(bed / "base")(private.SENTENCE, add_special_tokens=False)["input_ids"][3:8]
    for packed in (private.np.array(ids).tobytes(), private.np.array(ids, "<i4").tobytes(), str(ids).encode()):
        (tmp_path / "plain").write_bytes(b"\1" + packed)
        assert private.searched(tmp_path, wanted) == ["token ids in plain"]
    (tmp_path / "plain").write_text("red two green")
    assert private.searched(tmp_path, wanted) == []
    (tmp_path / private.WORD).touch()
    assert private.searched(tmp_path, wanted)
