"""A folder for what must not stay behind, not even of a process that was killed: texts, and files as large as a model."""

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "peft-unlearn-rows-"


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """An empty temporary folder that its owner alone may read, gone afterwards.

    What is killed outright cannot clean up, so folders of processes that are no more are removed first: a folder's lock is held as long as its
    process lives.
    """
    _remove_left()
    folder = Path(tempfile.gettempdir(), f"{PREFIX}{uuid.uuid4().hex}")
    with _lock(folder):
        folder.mkdir(mode=0o700)
        try:
            yield str(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _lock_file(folder).unlink(missing_ok=True)


def _remove_left() -> None:
    for folder in (path for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if path.is_dir()):
        with contextlib.suppress(Timeout, OSError), _lock(folder):  # of a process that lives, or of another user
            shutil.rmtree(folder)
            _lock_file(folder).unlink(missing_ok=True)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _lock(folder: Path) -> FileLock:
    return FileLock(_lock_file(folder), blocking=False, mode=0o600)
