"""Files that may have so many bytes and no more: Linux and macOS have that for any user, and all libraries are told alike."""

import contextlib

import pytest

resource = pytest.importorskip("resource", reason="this system cannot limit the size of a file, as Windows cannot")


@contextlib.contextmanager
def room(size: int):
    """A file has at most so many bytes. Within a test alone, not its fixtures: where pytest's own output goes to a file, that is one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
