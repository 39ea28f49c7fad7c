"""Where rows come from: a local file or folder, or the Hugging Face Hub, always through `datasets.load_dataset`."""

import contextlib
import gzip
import json
import logging
import re
import zlib
from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from peft_unlearn.config.dataset_specs import LOADERS, load_arguments
from peft_unlearn.data import documents, formats, shapes
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.scratch import scratch

logger = logging.getLogger(__name__)

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
        spec: a local file (.json as lines or as one list, .jsonl, .csv, .parquet, .txt, .md; also with .gz), its http(s) or hf address, a local
            folder, also one of `save_to_disk`, a dataset's name on the Hub or in OpenUnlearning, or a mapping of `load_dataset` keys: path (any
            of the former, or json, csv, parquet, text with data_files), name, split (default train; a slice such as train[:100] as well),
            data_files, data_dir, revision, and rename_columns, {its name: the name it shall have}. A file of text is one text, without the
            line breaks of its wrapping; with sample_by (paragraph, line) it is several, and those that are blank are left out.
        name: the recipe's key for this set, for messages.

    Returns:
        The rows in source order, in one of the formats of `peft_unlearn.data.formats`; how they are read is logged. Local files are read into
        memory and leave nothing in any cache, since forget text must not travel with one; a set from the Hub stays in the user's Hub cache as
        usual.

    Raises:
        UserError: an unknown key, a missing, unreadable or malformed source, missing columns, no rows, or a row without text.
    """
    arguments = load_arguments(spec, name)
    renamed = arguments.pop("rename_columns", {})
    if arguments["path"] == "csv":
        # pandas would read an answer "None" as missing and "007" as 7
        arguments |= {"converters": dict.fromkeys((*formats.COLUMNS, *shapes.ALPACA, *renamed), str), "keep_default_na": False}
    _check_encoding(arguments, f"{name}: cannot load {_shown(spec)}")
    _check_lines(arguments, f"{name}: cannot load {_shown(spec)}")
    try:
        dataset = _read(arguments, name)
    except StopIteration as error:  # what the json loader raises on a file of no bytes
        raise UserError(f"{name}: {_shown(spec)} holds no rows, write at least one into it.") from error
    except Exception as error:  # loaders and file systems raise of all kinds, and none is met by more than a sentence
        raise UserError(_unread(error, arguments, spec, name)) from error
    try:
        given = _renamed(_without_mark(dataset), renamed, name)
        dataset = formats.settled(given, name)
        columns = formats.check(dataset, name)
    except UnicodeDecodeError as error:  # a loader may only find out when a text is read
        raise UserError(f"{name}: {_shown(spec)} is not in UTF-8 ({error.reason}), save it so.") from error
    if not _are_texts(arguments):  # of which more has been told
        shape = " and ".join(columns) if given is dataset else shapes.called(given)
        logger.info("%s: %s rows, read as %s", name, f"{len(dataset):,}", shape)
    return dataset


def _read(arguments: Mapping[str, Any], name: str) -> Dataset:
    """The rows as they come."""
    source = Path(arguments["path"])
    if _is_saved(source):
        return _saved(source, arguments["split"])
    if _are_texts(arguments):
        return documents.read(arguments, name)
    if source.is_dir() or arguments["path"] in LOADERS.values():
        with scratch() as cache:
            return load_dataset(**arguments, cache_dir=cache, keep_in_memory=True)
    return load_dataset(**arguments)


def _are_texts(arguments: Mapping[str, Any]) -> bool:
    """Whether they name files of text, by themselves or as all that a folder holds."""
    source = Path(arguments["path"])
    return arguments["path"] == "text" or (not _is_saved(source) and _kinds(source) == ["text"])


def _unread(error: Exception, arguments: Mapping[str, Any], spec: str | Mapping[str, Any], name: str) -> str:
    """Why a source cannot be read, and what to write."""
    line = _broken_line(arguments)
    if line:
        return f"{name}: cannot load {_shown(spec)} ({line}), mend or remove it: each line must be one JSON object."
    cause = (isinstance(error, DatasetsError) and error.__cause__) or error
    if "corresponds to no data" in str(cause):
        return f"{name}: {_shown(spec)} holds no rows, write at least one into it."
    if "Config name is missing" in str(cause):
        some = ", ".join(re.findall(r"'([^']+)'", str(cause).split("[", 1)[-1].split("]")[0])[:8])
        return f"{name}: {_shown(spec)} holds several sets ({some}), write {{path: {arguments['path']}, name: one of them}}."
    return f"{name}: cannot load {_shown(spec)} ({_reason(cause)}); mend the file, or write another one."


def _renamed(dataset: Dataset, names: Mapping[str, str], name: str) -> Dataset:
    """The set with some columns under other names; one that had such a name goes."""
    if missing := [column for column in names if column not in dataset.column_names]:
        raise UserError(f"{name}: rename_columns: there is no column {missing[0]!r}, write one that the rows have.")
    taken = [column for column in dataset.column_names if column in names.values() and column not in names]
    return dataset.remove_columns(taken).rename_columns(dict(names)) if names else dataset


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


def _kinds(folder: Path) -> list[str]:
    """What kinds of files a folder holds; notes about rows are none.

    Raises:
        ValueError: several, of which `load_dataset` would read one and leave out the others.
    """
    names = [path.name.removesuffix(".gz") for path in folder.rglob("*") if path.is_file() and path.name != "dataset_infos.json"]
    found = {suffix: LOADERS[suffix] for name in names if (suffix := Path(name).suffix.lower()) in LOADERS}
    kinds = sorted({kind for suffix, kind in found.items() if suffix != ".md"})
    if len(kinds) > 1:
        raise ValueError(f"it holds files of several kinds, {' and '.join(kinds)}: name one file, or leave one kind in it")
    return kinds or sorted(set(found.values()))


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
