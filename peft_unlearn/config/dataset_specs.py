"""What a recipe may write for a set of texts: a file, a folder, a name on the Hub, or a mapping. Known without torch or `datasets`."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from peft_unlearn.config.dataset_names import DATASET_NAMES
from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError

LOADERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text", ".md": "text"}
KEYS = ("path", "name", "split", "data_files", "data_dir", "revision", "sample_by", "rename_columns")
UNITS = ("document", "paragraph", "line")  # of sample_by
# keys of other tools' datasets, and what to write instead
THEIRS = {
    "hf_args": "write its own keys, path, name and split, in its place",
    "handler": "leave it out, the columns tell",
    "access_key": "leave it out",
    "max_length": "write it beside the dataset",
    **dict.fromkeys(("question_key", "answer_key", "prefix_key", "text_key"), "write rename_columns: {its name: question}"),
    "columns": "write rename_columns: {its name: question}, others are left alone",
    "dataset_name": "write path",
    "dataset_config": "write name",
    "dataset_split": "write split",
}


def is_text(file: str) -> bool:
    """Whether a file is one of text by its name, such as book.txt.gz."""
    return LOADERS.get(_extension(file)) == "text"


def load_arguments(spec: str | Mapping[str, Any], name: str) -> dict[str, Any]:
    """Keyword arguments of `load_dataset`, and `rename_columns`; a local file or an address becomes its loader with data_files. Nothing is opened.

    Raises:
        UserError: an unknown key, or a local file that is not there or whose kind is unknown; the message names the set, `name`.
    """
    arguments = {"split": "train", **_named({"path": spec} if isinstance(spec, str) else spec)}
    _check(arguments, name)
    if re.match(r"(https?|hf)://", arguments["path"]):
        address = arguments["path"]
        with boundary(f"{name}: {address} is no address", "write one of a file"):
            extension = _extension(urlsplit(address).path)
        if extension not in LOADERS:
            raise UserError(f"{name}: {address} has an unknown extension, it must be one of {', '.join(LOADERS)}.")
        return arguments | {"path": LOADERS[extension], "data_files": address}
    with boundary(f"{name}: {arguments['path']!r} is no name of a file", "write the path of a file or folder, or a Hub name"):
        path = Path(arguments["path"]).expanduser()
        path.exists()
    if path == Path(path.anchor or "."):
        raise UserError(f"{name}: {str(path)!r} is no folder of texts, write a file or a folder that holds nothing else.")
    extension = _extension(path.name)
    if path.is_file():
        if extension not in LOADERS:
            raise UserError(f"{name}: {path} has an unknown extension, it must be one of {', '.join(LOADERS)}.")
        arguments |= {"path": LOADERS[extension], "data_files": str(path)}
    elif path.is_dir():
        arguments["path"] = str(path)
    elif extension in LOADERS or arguments["path"].startswith(("/", ".", "~")):
        raise UserError(f"{name}: {path} does not exist, write the path of a file or folder that does.")
    return arguments


def _named(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The spec, with the place of a set that it calls as OpenUnlearning does."""
    path = spec.get("path")
    known = DATASET_NAMES.get(path) if isinstance(path, str) else None
    if known is None or Path(str(path)).exists():
        return spec
    return {**known, **{key: value for key, value in spec.items() if key != "path"}}


def _check(arguments: Mapping[str, Any], name: str) -> None:
    """Refuse keys that are none, and values of another kind."""
    for key, value in arguments.items():
        if key in THEIRS:
            raise UserError(f"{name}: {key} is another tool's key, {THEIRS[key]}.")
        if key not in KEYS:
            nearest = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"write any of {', '.join(KEYS)}."
            raise UserError(f"{name}: {key!r} is not a key of a dataset, {hint}")
        if key == "rename_columns":
            if not isinstance(value, Mapping) or not all(isinstance(text, str) and text for pair in value.items() for text in pair):
                raise UserError(f"{name}: rename_columns is {value!r}, write {{its name: the name it shall have}}.")
            if len(set(value.values())) < len(value):
                raise UserError(f"{name}: rename_columns gives two columns one name, write another one.")
            continue
        inner = value.values() if isinstance(value, dict) else value
        texts = inner if key == "data_files" and isinstance(value, list | dict) else [value]
        if not all(isinstance(text, str) and text.strip() and text.isprintable() for text in texts):
            raise UserError(f"{name}: {key} is {value!r}, write text.")
    if not arguments.get("path"):
        raise UserError(f"{name}: path is missing, write a file, a folder or a dataset's name on the Hub.")
    if arguments.get("sample_by", UNITS[0]) not in UNITS:
        raise UserError(f"{name}: sample_by is {arguments['sample_by']!r}, write {', '.join(UNITS[:-1])} or {UNITS[-1]}.")


def _extension(file: str) -> str:
    """Of what a file is, compressed or not."""
    return Path(file.removesuffix(".gz")).suffix.lower()
