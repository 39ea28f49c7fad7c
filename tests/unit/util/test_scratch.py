"""Texts in a temporary folder: gone afterwards, also after a process that could not clean up."""

import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from peft_unlearn.util.scratch import PREFIX, scratch

HOLDS = """
import sys, time
from pathlib import Path
from peft_unlearn.util.scratch import scratch
with scratch() as folder:
    Path(folder, "rows.arrow").write_text("secret")
    print(folder, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder():
    """A process with a folder of its own."""
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_nothing_is_left_afterwards_whatever_happens(temporary):
    with pytest.raises(ZeroDivisionError), scratch() as folder:
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
        Path(folder, "deep").mkdir()
        Path(folder, "deep", "rows").write_text("secret")
        raise ZeroDivisionError
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_needs_is_not(temporary, holder):
    process, folder = holder
    assert folder.name.startswith(PREFIX)
    with scratch() as mine:
        assert (folder / "rows.arrow").read_text() == "secret"
        assert mine != str(folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "rows.arrow").exists()
    with scratch() as mine:
        assert [path for path in temporary.iterdir() if path.is_dir()] == [Path(mine)]
    assert list(temporary.iterdir()) == []
