"""What a folder holds, by size and checksum: one that was cut or damaged is not taken for a whole one."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

FILE = "manifest.json"


class Damaged(ValueError):
    """The folder is not as it was written; the message says what is wrong, in a few words."""


def write(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of a finished folder, with `facts` about it (as JSON has them), once every file is on the disk."""
    files = {path.relative_to(folder).as_posix(): _entry(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    made = {"facts": facts, "files": files}
    with open(folder / FILE, "w", encoding="utf-8") as file:
        json.dump({**made, "sha256": _digest(made)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> dict[str, Any]:
    """The facts of a folder that is whole. Files that its manifest does not name are none of its business.

    Raises:
        Damaged: no manifest, or a file that is missing, of another size or of other bytes.
    """
    path = folder / FILE
    if not path.is_file():
        raise Damaged(f"{FILE} is missing")
    try:
        made = json.loads(path.read_bytes())
        told = made.pop("sha256")
        files = {name: (entry["size"], entry["sha256"]) for name, entry in made["files"].items()}
        facts: dict[str, Any] = made["facts"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Damaged(f"{FILE} is not what was written") from None
    if told != _digest(made):
        raise Damaged(f"{FILE} is not what was written")
    for name, (size, _) in files.items():
        if not (folder / name).is_file():
            raise Damaged(f"{name} is missing")
        if (found := (folder / name).stat().st_size) != size:
            raise Damaged(f"{name} has {found} bytes in place of {size}")
    for name, (_, digest) in files.items():
        with open(folder / name, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise Damaged(f"{name} has other bytes than were written")
    return facts


def _entry(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _digest(made: Any) -> str:
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
