"""Where rows come from: a local file or folder, or the Hugging Face Hub, always through `datasets.load_dataset`."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from peft_unlearn.config.dataset_specs import LOADERS, load_arguments
from peft_unlearn.data import formats
from peft_unlearn.util.errors import UserError


def load(spec: str | Mapping[str, Any], *, name: str) -> Dataset:
    """Load a set of texts and check every row of it, without a model or a tokenizer.

    Args:
        spec: a local file (.json as lines or as one list, .jsonl, .csv, .parquet, .txt; also with .gz), a local folder, a dataset's name on
            the Hub, or a mapping of `load_dataset` keys: path (any of the former, or json, csv, parquet, text with data_files), name, split
            (default train; a slice such as train[:100] as well), data_files, data_dir, revision, and sample_by for text files (line,
            paragraph, document). A text file holds one text a line unless sample_by says otherwise, and blank ones are left out.
        name: the recipe's key for this set, for messages.

    Returns:
        The rows in source order, in one of the formats of `peft_unlearn.data.formats`. Local files are read into memory and leave nothing
        in any cache, since forget text must not travel with one; a set from the Hub stays in the user's Hub cache as usual.

    Raises:
        UserError: an unknown key, a missing, unreadable or malformed source, missing columns, no rows, or a row without text.
    """
    arguments = load_arguments(spec, name)
    source = arguments["path"]
    if source == "csv":
        # pandas would read an answer "None" as missing and "007" as 7
        arguments |= {"converters": dict.fromkeys(formats.COLUMNS, str), "keep_default_na": False}
    try:
        if source in LOADERS.values() or Path(source).is_dir():
            with tempfile.TemporaryDirectory() as cache:
                dataset = load_dataset(**arguments, cache_dir=cache, keep_in_memory=True)
        else:
            dataset = load_dataset(**arguments)
    except StopIteration as error:  # what the json loader raises on a file of no bytes
        raise UserError(f"{name}: {_shown(spec)} holds no rows, write at least one into it.") from error
    except (DatasetsError, OSError, ValueError) as error:
        line = _broken_line(arguments)
        if line:
            raise UserError(
                f"{name}: cannot load {_shown(spec)} ({line}), mend or remove it: each line must be one JSON object."
            ) from error
        reason = str(error.__cause__ or error).split("\n")[0].rstrip(".")
        raise UserError(f"{name}: cannot load {_shown(spec)} ({reason}).") from error
    try:
        if source == "text":
            dataset = dataset.select([row for row, text in enumerate(dataset["text"]) if text.strip()]).flatten_indices(keep_in_memory=True)
        formats.check(dataset, name)
    except UnicodeDecodeError as error:  # a loader may only find out when a text is read
        raise UserError(f"{name}: {_shown(spec)} is not in UTF-8 ({error.reason}), save it so.") from error
    return dataset


def _broken_line(arguments: Mapping[str, Any]) -> str | None:
    """Which line of a .jsonl file is no JSON object; the loader counts from 0, and anew in every 10 MB."""
    file = arguments.get("data_files")
    if isinstance(file, str) and file.endswith(".jsonl") and Path(file).is_file():
        with open(file, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line.strip() or "{}")
                except ValueError:
                    return f"line {number} is not JSON"
                if not isinstance(row, dict):
                    return f"line {number} is no JSON object"
    return None


def _shown(spec: str | Mapping[str, Any]) -> str:
    return spec if isinstance(spec, str) else ", ".join(f"{key}: {value}" for key, value in spec.items())
