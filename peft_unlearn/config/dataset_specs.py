"""What a recipe may write for a set of texts: a file, a folder, a name on the Hub, or a mapping. Known without torch or `datasets`."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError

LOADERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
KEYS = ("path", "name", "split", "data_files", "data_dir", "revision", "sample_by")


def load_arguments(spec: str | Mapping[str, Any], name: str) -> dict[str, Any]:
    """Keyword arguments of `load_dataset`; a local file or an address becomes its loader with data_files. Nothing is opened.

    Raises:
        UserError: an unknown key, or a local file that is not there or whose kind is unknown; the message names the set, `name`.
    """
    arguments = {"split": "train", **({"path": spec} if isinstance(spec, str) else spec)}
    for key, value in arguments.items():
        if key not in KEYS:
            nearest = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"write any of {', '.join(KEYS)}."
            raise UserError(f"{name}: {key!r} is not a key of a dataset, {hint}")
        texts = (
            (value.values() if isinstance(value, dict) else value) if key == "data_files" and isinstance(value, list | dict) else [value]
        )
        if not all(isinstance(text, str) and text.strip() and text.isprintable() for text in texts):
            raise UserError(f"{name}: {key} is {value!r}, write text.")
    if not arguments.get("path"):
        raise UserError(f"{name}: path is missing, write a file, a folder or a dataset's name on the Hub.")
    if re.match(r"(https?|hf)://", arguments["path"]):
        address = arguments["path"]
        with boundary(f"{name}: {address} is no address", "write one of a file"):
            extension = Path(urlsplit(address).path.removesuffix(".gz")).suffix.lower()
        if extension not in LOADERS:
            raise UserError(f"{name}: {address} has an unknown extension, it must be one of {', '.join(LOADERS)}.")
        return arguments | {"path": LOADERS[extension], "data_files": address}
    with boundary(f"{name}: {arguments['path']!r} is no name of a file", "write the path of a file or folder, or a Hub name"):
        path = Path(arguments["path"]).expanduser()
        path.exists()
    if path == Path(path.anchor or "."):
        raise UserError(f"{name}: {str(path)!r} is no folder of texts, write a file or a folder that holds nothing else.")
    extension = Path(path.stem if path.suffix == ".gz" else path).suffix.lower()
    if path.is_file():
        if extension not in LOADERS:
            raise UserError(f"{name}: {path} has an unknown extension, it must be one of {', '.join(LOADERS)}.")
        arguments |= {"path": LOADERS[extension], "data_files": str(path)}
    elif path.is_dir():
        arguments["path"] = str(path)
    elif extension in LOADERS or arguments["path"].startswith(("/", ".", "~")):
        raise UserError(f"{name}: {path} does not exist, write the path of a file or folder that does.")
    return arguments
