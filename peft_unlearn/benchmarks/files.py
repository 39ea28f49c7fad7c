"""Benchmark files, from a local folder or the Hugging Face Hub, with every row checked before a model is loaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, get_dataset_config_names, load_dataset
from datasets.exceptions import DatasetsError

from peft_unlearn.data.rows import evenly
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.scratch import scratch

LOADERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}

Check = Callable[[Any], str | None]  # a value -> what is wrong with it, in words that do not repeat it; None if nothing is


def text(value: Any) -> str | None:
    return None if isinstance(value, str) and value.strip() else "is no text"


def texts(value: Any) -> str | None:
    return None if isinstance(value, list) and value and not any(map(text, value)) else "is no list of texts"


def text_or_texts(value: Any) -> str | None:
    return texts(value) if isinstance(value, list) else text(value)


def spread(rows: Dataset, count: int) -> Dataset:
    """`count` rows, evenly spaced."""
    return rows.select(evenly(len(rows), count))


@dataclass(frozen=True)
class Source:
    """Where a benchmark's files are: a local folder, or the name of a dataset on the Hub."""

    where: str
    benchmark: str

    @property
    def folder(self) -> Path | None:
        """The local folder; None for a dataset on the Hub.

        Raises:
            UserError: a path that is no folder.
        """
        path = Path(self.where).expanduser()
        if path.is_dir():
            return path
        if path.exists() or self.where.startswith(("/", ".", "~")):
            raise UserError(
                f"data: {self.where} is no folder, write one with the files of {self.benchmark}, or a dataset's name on the Hub."
            )
        return None

    def has(self, config: str, split: str) -> bool:
        """Whether this file is there, among those that a benchmark can do without."""
        folder = self.folder
        if folder is not None:
            return _find(folder, config, split) is not None
        try:
            return config in get_dataset_config_names(self.where)
        except (DatasetsError, OSError, ValueError) as error:
            raise UserError(f"data: {self.where!r} is no folder, and no dataset on the Hub that answers.") from error

    def read(self, config: str, split: str, checks: Mapping[str, Check]) -> Dataset:
        """All rows of one file: `config` and `split` as on the Hub; locally config/split or config with an extension of `LOADERS`.

        Args:
            checks: for each column that every row must have, what its values are checked with.

        Raises:
            UserError: no such file, one that does not load, no rows, a missing column, or a row that fails a check.
        """
        folder = self.folder
        try:
            if folder is None:
                rows = load_dataset(self.where, config, split=split)
                name = f"{self.where} ({config}, {split})"
            else:
                path = _find(folder, config, split)
                if path is None:
                    found = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.suffix in LOADERS)
                    raise UserError(
                        f"data: {folder} has no {_stems(config, split)[0]} ({', '.join(LOADERS)}), which {self.benchmark} needs; "
                        f"found {', '.join(found) or 'no such files'}."
                    )
                name = str(path)
                with scratch() as cache:
                    rows = load_dataset(LOADERS[path.suffix], data_files=name, split="train", cache_dir=cache, keep_in_memory=True)
        except StopIteration as error:  # what the json loader raises on a file of no bytes
            raise UserError(f"data: {name} holds no rows.") from error
        except (DatasetsError, OSError, ValueError) as error:
            reason = str(error.__cause__ or error).split("\n")[0].rstrip(".")
            raise UserError(f"data: {self.where}: cannot load {config} {split} ({reason}).") from error
        return _checked(rows, name, checks)


def _stems(config: str, split: str) -> list[str]:
    return [f"{config}/{split}", config] if split != "train" else [config]


def _find(folder: Path, config: str, split: str) -> Path | None:
    """A file by its name, or as the Hub stores it: split-00000-of-00001.parquet."""
    for stem in _stems(config, split):
        for suffix in LOADERS:
            if (folder / f"{stem}{suffix}").is_file():
                return folder / f"{stem}{suffix}"
        shards = sorted(folder.glob(f"{stem}-00000-of-00001.parquet"))
        if shards:
            return shards[0]
    return None


def _checked(rows: Dataset, name: str, checks: Mapping[str, Check]) -> Dataset:
    if len(rows) == 0:
        raise UserError(f"data: {name} holds no rows.")
    for column, check in checks.items():
        if column not in rows.column_names:
            raise UserError(f"data: {name}: column {column!r} is missing, its columns are {', '.join(rows.column_names)}.")
        for number, value in enumerate(rows.with_format(None)[column], start=1):
            fault = "is missing" if value is None else check(value)
            if fault:
                raise UserError(f"data: {name}: row {number}: {column} {fault}, mend the row or take it out.")
    return rows
