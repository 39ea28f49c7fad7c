"""A file of entries that grows at its end alone: each has its time and the checksum of the one before, and the file is replaced whole.

It tells what was changed afterwards by accident, or by hand in one place. Whoever writes all entries anew is not found out: keep the last checksum
elsewhere for that.
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from peft_unlearn.util import disk
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import read_json

Entry = dict[str, Any]
BEFORE = "before"  # the key of that checksum


def checksum(entry: Entry) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> list[Entry]:
    """The entries of a file, oldest first; none where there is no file.

    Raises:
        UserError: no such file, or an entry that is not the one that was written.
    """
    if not path.exists():
        return []
    entries = read_json(path).get("entries")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path}: this holds no list of entries; restore it from a copy.")
    before = None
    for number, entry in enumerate(entries, start=1):
        if entry.get(BEFORE) != before:
            raise UserError(f"{path}: what stands before entry {number} is not what was written; restore it from a copy.")
        before = checksum(entry)
    return entries


def append(path: Path, entry: Entry) -> Entry:
    """Write one more entry at the end, with its time and the checksum of the one before, and return it.

    Raises:
        UserError: what `read` refuses.
    """
    with FileLock(path.with_name(f".{path.name}.lock")):
        entries = read(path)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"at": at, **entry, BEFORE: checksum(entries[-1]) if entries else None}
        disk.write_text(path, json.dumps({"entries": [*entries, entry]}, indent=1, ensure_ascii=False) + "\n")
    return entry
