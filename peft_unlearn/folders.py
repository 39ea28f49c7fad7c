"""Folders of models and adapters: where one lies, here or on the Hub, and its JSON files."""

import json
from pathlib import Path
from typing import Any

from peft_unlearn.errors import UserError

ADAPTER_CONFIG = "adapter_config.json"  # a folder that holds one is an adapter's


def locate(name: str | Path, patterns: list[str], *, key: str, revision: str | None = None) -> Path:
    """The folder of `name`: a local one, or a snapshot of the Hub repository with the files that match `patterns`.

    Raises:
        UserError: neither a folder nor a repository that can be reached; the message names `key`.
    """
    if Path(name).is_dir():
        return Path(name)

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            snapshot_download(str(name), revision=revision, allow_patterns=patterns, ignore_patterns=["original/*", "consolidated*"])
        )
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"{key}: {str(name)!r} is no folder here and did not come from the Hub ({reason}); write a local folder."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: the file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; give a folder that holds {path.name}.") from None
    except ValueError as error:
        raise UserError(f"{path}: this is no JSON ({error}); fetch or write the file again.") from error
