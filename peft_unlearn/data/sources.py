"""Where rows come from: a local file or folder, or the Hugging Face Hub, always through `datasets.load_dataset`."""

import contextlib
import gzip
import json
import re
import zlib
from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from peft_unlearn.config.dataset_specs import LOADERS, load_arguments
from peft_unlearn.data import formats, shapes
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.scratch import scratch

SAVED = ("state.json", "dataset_dict.json")  # in a folder of save_to_disk
MARK = "\ufeff"
PEEK = 4096  # bytes
DEEPEST = 100  # lists and objects in one another
MAYBE_DEEP = re.compile(rb'(?:[\[{]\s*(?:"[^"]*"\s*:\s*)?){101}')
QUOTED = re.compile(r"(?<!\w)(['\"])(?:.*\1(?!\w)|.*)", re.DOTALL)  # and no apostrophe; one that is not closed goes on to the end
COLUMN = re.compile(r"Column\(.*\)", re.DOTALL)
NULL_FIRST = re.compile(rb"(?:\xef\xbb\xbf)?[\s,\[\]]*null")


def load(spec: str | Mapping[str, Any], *, name: str) -> Dataset:
    """Load a set of texts and check every row of it, without a model or a tokenizer.

    Args:
        spec: a local file (.json as lines or as one list, .jsonl, .csv, .parquet, .txt; also with .gz), its http(s) or hf address, a local
            folder, also one of `save_to_disk`, a dataset's name on the Hub, or a mapping of `load_dataset` keys: path (any of the former, or
            json, csv, parquet, text with data_files), name, split (default train; a slice such as train[:100] as well), data_files, data_dir,
            revision, and sample_by for text files (line, paragraph, document). A text file holds one text a line unless sample_by says
            otherwise, and blank ones are left out.
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
        arguments |= {"converters": dict.fromkeys((*formats.COLUMNS, *shapes.ALPACA), str), "keep_default_na": False}
    _check_encoding(arguments, f"{name}: cannot load {_shown(spec)}")
    _check_lines(arguments, f"{name}: cannot load {_shown(spec)}")
    try:
        _check_one_kind(Path(source))
        if _is_saved(Path(source)):
            dataset = _saved(Path(source), arguments["split"])
        elif source in LOADERS.values() or Path(source).is_dir():
            with scratch() as cache:
                dataset = load_dataset(**arguments, cache_dir=cache, keep_in_memory=True)
        else:
            dataset = load_dataset(**arguments)
    except StopIteration as error:  # what the json loader raises on a file of no bytes
        raise UserError(f"{name}: {_shown(spec)} holds no rows, write at least one into it.") from error
    except Exception as error:  # loaders and file systems raise of all kinds, and none is met by more than a sentence
        line = _broken_line(arguments)
        if line:
            raise UserError(
                f"{name}: cannot load {_shown(spec)} ({line}), mend or remove it: each line must be one JSON object."
            ) from error
        reason = _reason((isinstance(error, DatasetsError) and error.__cause__) or error)
        if "corresponds to no data" in reason:
            raise UserError(f"{name}: {_shown(spec)} holds no rows, write at least one into it.") from error
        raise UserError(f"{name}: cannot load {_shown(spec)} ({reason}); mend the file, or write another one.") from error
    try:
        dataset = _without_mark(dataset)
        if source == "text":
            dataset = dataset.select([row for row, text in enumerate(dataset["text"]) if text.strip()]).flatten_indices(keep_in_memory=True)
        dataset = formats.settled(dataset, name)
        formats.check(dataset, name)
    except UnicodeDecodeError as error:  # a loader may only find out when a text is read
        raise UserError(f"{name}: {_shown(spec)} is not in UTF-8 ({error.reason}), save it so.") from error
    return dataset


def _reason(error: BaseException) -> str:
    """What a loader says; of what has read rows without what it quotes and the columns that it names, which are values or a row for a header."""
    said = str(error)
    if type(error).__module__.partition(".")[0] in ("pyarrow", "pandas"):
        said = QUOTED.sub("…", COLUMN.sub("a column", said))
    return said.split("\n")[0].rstrip(".")


def _check_encoding(arguments: Mapping[str, Any], where: str) -> None:
    """Refuse a local file whose text has zero bytes, as UTF-16 has: some loaders would read it, and take them for text."""
    file = arguments.get("data_files")
    if arguments["path"] in ("json", "csv", "text") and isinstance(file, str) and not file.endswith(".gz") and Path(file).is_file():
        with open(file, "rb") as opened:
            if b"\0" in opened.read(PEEK):
                raise UserError(f"{where} (it has zero bytes, as UTF-16 has and no text in utf-8), save it as UTF-8.")


def _check_lines(arguments: Mapping[str, Any], where: str) -> None:
    """Refuse what pyarrow 26 does not come back from: null as the first value is a segmentation fault, lists 5000 deep take hours."""
    for file in _json_files(arguments):
        with contextlib.suppress(OSError, EOFError, zlib.error), gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if NULL_FIRST.match(line):
                    raise UserError(f"{where} (line {number} is null and no JSON object), mend or remove it.")
                if MAYBE_DEEP.search(line) and _is_deep(line):
                    raise UserError(f"{where} (line {number} is nested more than {DEEPEST} deep), mend or remove it.")


def _json_files(arguments: Mapping[str, Any]) -> list[Path]:
    """The local files of JSON that would be read."""
    if Path(arguments["path"]).is_dir():
        return [path for path in Path(arguments["path"]).rglob("*.json*") if path.is_file()]
    given = arguments.get("data_files", []) if arguments["path"] == "json" else []
    named = given.values() if isinstance(given, Mapping) else [given]
    names = [str(one) for some in named for one in (some if isinstance(some, list) else [some])]
    return [
        Path(path) for name in names for path in ([name] if Path(name).is_file() else glob(name, recursive=True)) if Path(path).is_file()
    ]


def _is_deep(line: bytes) -> bool:
    """Whether the brackets of a line of JSON are nested so; some may stand in a text."""

    def depth(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    try:
        return depth(json.loads(line)) > DEEPEST
    except RecursionError:
        return True
    except ValueError:
        return False  # the loader says what it is


def _is_saved(folder: Path) -> bool:
    return any((folder / file).is_file() for file in SAVED)


def _check_one_kind(folder: Path) -> None:
    """Refuse a folder of texts of several kinds, of which `load_dataset` would read one and leave out the others."""
    if folder.is_dir() and not _is_saved(folder):
        names = [path.name.removesuffix(".gz") for path in folder.rglob("*") if path.is_file() and path.name != "dataset_infos.json"]
        if len(kinds := sorted({LOADERS[suffix] for name in names if (suffix := Path(name).suffix.lower()) in LOADERS})) > 1:
            raise ValueError(f"it holds files of several kinds, {' and '.join(kinds)}: name one file, or leave one kind in it")


def _saved(folder: Path, split: str) -> Dataset:
    """What `save_to_disk` has written: a set, or sets by the names of their splits."""
    found = load_from_disk(str(folder), keep_in_memory=True)
    splits = found if isinstance(found, DatasetDict) else {str(found.split or "train"): found}
    if split not in splits:
        raise ValueError(f"it was saved with {', '.join(splits)} and has no split {split}")
    return splits[split]


def _without_mark(dataset: Dataset) -> Dataset:
    """The set without the byte-order mark that a file of text may begin with."""
    texts = dataset["text"][:] if "text" in dataset.column_names else []
    if not any(isinstance(text, str) and text.startswith(MARK) for text in texts):
        return dataset
    return dataset.map(
        lambda row: {"text": row["text"].removeprefix(MARK)}, features=dataset.features, keep_in_memory=True, load_from_cache_file=False
    )


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
