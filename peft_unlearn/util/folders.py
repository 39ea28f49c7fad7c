"""Folders of models and adapters: where one lies, here or on the Hub, and its JSON files."""

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.gguf import is_gguf, located
from peft_unlearn.util.redaction import is_local

ADAPTER_CONFIG = "adapter_config.json"  # a folder that holds one is an adapter's


def locate(name: str | Path, patterns: list[str], *, key: str, revision: str | None = None) -> Path:
    """The folder of `name`: a local one, or a snapshot of the Hub repository with the files that match `patterns`; or the GGUF file of that name.

    Raises:
        UserError: neither a folder nor a repository that can be reached; the message names `key`.
    """
    if Path(name).is_dir() and str(name).strip():
        return Path(name)
    if is_gguf(name):
        return located(name, key=key, revision=revision)

    from huggingface_hub import snapshot_download

    with boundary(f"{key}: {str(name)!r} is no folder here and did not come from the Hub", "write a local folder"):
        return Path(
            snapshot_download(str(name), revision=revision, allow_patterns=patterns, ignore_patterns=["original/*", "consolidated*"])
        )


def check_base(base: Any, adapter: str | Path) -> None:
    """See that an adapter's base is named, and is here where it is a folder's.

    Raises:
        UserError: it is not; `base` is what the user can give.
    """
    if not isinstance(base, str | None) or not base:
        raise UserError(f"base: {adapter} does not name its base, write --base with a folder or a Hub name.")
    if is_gone(base):
        raise UserError(f"base: {adapter} says that its base is {base}, which is not here; write --base with a folder or a Hub name.")


def is_gone(name: str) -> bool:
    """Whether a name is that of a folder or a GGUF file which is not on this machine."""
    return is_local(name) and not (Path(name).is_dir() or (is_gguf(name) and Path(name).is_file()))


def has_file(name: str | Path, file: str) -> bool:
    """Whether a local folder, or a repository on the Hub that answers, has a file."""
    if Path(name).is_dir() or is_gguf(name):
        return (Path(name) / file).is_file()

    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(hf_hub_download(str(name), file)).is_file()
    except (OSError, HFValidationError):
        return False


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: the file is missing or is no JSON object.
    """
    try:
        with boundary(f"{path}: this is no JSON", "fetch or write the file again"):
            found = json.loads(path.read_text(encoding="utf-8"))
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UserError(f"{path}: there is no such file; give a folder that holds {path.name}.") from None
        raise
    if not isinstance(found, dict):
        raise UserError(f"{path}: this is no JSON object; fetch or write the file again.")
    return found


@contextlib.contextmanager
def undamaged(what: str) -> Iterator[None]:
    """Read safetensors files of `what`.

    Raises:
        UserError: one is truncated or damaged.
    """
    try:
        yield
    except SafetensorError as error:
        raise UserError(f"{what} is truncated or damaged ({error}); fetch or save it again.") from error


def check_writable(path: Path, *, key: str) -> None:
    """See that `path` can be written, making folders on the way to it.

    Raises:
        UserError: the folder that it would lie in is a file, or may not be written.
    """
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        if not parent.is_dir():
            raise NotADirectoryError
        with tempfile.TemporaryFile(dir=parent):  # os.access says yes to root everywhere
            pass
    except OSError as error:
        raise UserError(f"{key}: {path} cannot be made in {parent}, write a place that you may write to.") from error


@contextlib.contextmanager
def claimed(folder: Path, *, key: str, file: str = "") -> Iterator[None]:
    """Make `folder`, for this process alone until it ends, or one `file` of it; folders that are empty then are gone again.

    Raises:
        UserError: it cannot be made, or another process writes into it.
    """
    lock = FileLock(folder / f".{file}.lock" if file else folder / ".lock")
    new: list[Path] = []
    try:
        with boundary(f"{key}: {str(folder)!r} cannot be made", "write another folder"):
            if folder.exists() and not folder.is_dir():
                raise UserError(f"{key}: {folder} is a file, write a folder.")
            check_writable(folder / ".lock" if folder.exists() else folder, key=key)
            new = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout as error:
                kind = "file" if file else "folder"
                raise UserError(f"{key}: another run is writing {'' if file else 'into '}{folder / file}, write another {kind}.") from error
        yield
    finally:
        if lock.is_locked:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
        for path in new:
            with contextlib.suppress(OSError):  # something was written into it
                path.rmdir()


def check_room(folder: Path, size: int, *, key: str) -> None:
    """See that the disk of `folder` has room for so many bytes.

    Raises:
        UserError: it has less.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB")
        raise UserError(
            f"{key}: {folder} has {free / unit:.2f} {name} free and {size / unit:.2f} {name} are needed; give a folder on another disk."
        )


def same_model(name: str | Path, other: str | Path) -> bool:
    """Whether two names may be one model's: by their last components alone, as folders move, in a cache or on another system as well."""
    return _last(name) == _last(other)


def _last(name: str | Path) -> str:
    cached = re.search(r"models--(.+?)[/\\]+snapshots[/\\]", f"{name}/")
    return re.split(r"[/\\]|--", cached[1] if cached else str(name).rstrip("/\\"))[-1].casefold()
