"""Files that are whole or not there, and what a disk says that has no room or may not be written."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

# What a file system says of a place that was named, and no mistake of ours is the cause of.
OF_THE_DISK = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.ELOOP,
}
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# How safetensors and tokenizers (28 and 27 are ENOSPC and EFBIG), and torch, say the same.
WORDS = ("(os error 28)", "(os error 27)", "No space left", "PytorchStreamWriter failed writing", "file write failed", "unexpected pos")


def write_text(path: Path, text: str) -> None:
    """Write a text beside its place, then rename it: what is cut at any moment leaves the old file or the new one.

    Raises:
        OSError: the disk is full, or may not be written; nothing is left beside.
    """
    beside = path.with_name(f"{path.name}.tmp")
    try:
        beside.write_text(text, encoding="utf-8", newline="")
        os.replace(beside, path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # a write does not say where
        raise


@contextlib.contextmanager
def written(place: Path) -> Iterator[None]:
    """Write into `place`.

    Raises:
        OSError: the disk is full, whatever the library that writes calls it; it names the place.
    """
    try:
        yield
    except Exception as error:
        if _full(error):
            raise OSError(errno.ENOSPC, "no room is left", str(place)) from error
        raise


def said(error: BaseException) -> str | None:
    """A sentence of what a file system said, by way of whatever library; None of another error."""
    place = (error.filename if isinstance(error, OSError) else None) or "output"
    if _full(error):
        return f"{place}: no room is left on the disk, make some and start again."
    return f"{place}: write another place ({error.strerror})." if isinstance(error, OSError) and error.errno in OF_THE_DISK else None


def _full(error: BaseException) -> bool:
    code = error.errno if isinstance(error, OSError) else None
    return code in NO_ROOM or (code is None and any(words in str(error) for words in WORDS))
