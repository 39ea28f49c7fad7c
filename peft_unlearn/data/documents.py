"""Files of text: each is one text, or as many as it has paragraphs or lines.

A book comes with its lines wrapped at some width. Such a line break is no part of the text: it stands where the next word would not have fitted.
Verse, lists, tables, and facts written one a line have breaks of another kind, and those are kept.
"""

import gzip
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from datasets import Dataset, ReadInstruction, load_dataset

from peft_unlearn.config.dataset_specs import is_text
from peft_unlearn.data.unspaced import pieces
from peft_unlearn.util.scratch import scratch

logger = logging.getLogger(__name__)

NARROWEST = 40  # characters: no text is wrapped at less
SHARE = 0.9  # of the lines of a wrapped text are at most as long as its width: some words stick out
LONG = 0.8  # of the width: a line of a paragraph that was wrapped by hand; one of verse is shorter
LINES = 10  # of a file without blank lines that may be a text each
_BLANK = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
_KEPT = re.compile(r"\s|[#>|*+-]|`{3}|\d+[.)]\s")  # what begins a line that goes on no other: an indent, or Markdown
_ENDED = re.compile(r"[.!?:;。！？][\"'”’)」』]*$")


class Document(NamedTuple):
    """A file's name and text."""

    name: str
    text: str


def read(arguments: Mapping[str, Any], name: str) -> Dataset:
    """The texts of the files that arguments of `load_dataset` name, with the file of each in a column `document`.

    `sample_by` is document (the default), paragraph or line; a slice of `split` is one of those.

    Args:
        name: the recipe's key for this set, for what is told.

    Raises:
        OSError, UnicodeError, ValueError: a file that cannot be read, or a split that is not there.
    """
    unit = arguments.get("sample_by", "document")
    found = {split: [_document(file) for file in files] for split, files in _files(arguments).items()}
    texts = {split: [(text, one.name) for one in documents for text in _texts(one.text, unit)] for split, documents in found.items()}
    chosen = ReadInstruction.from_spec(arguments["split"]).to_absolute({split: len(rows) for split, rows in texts.items()})
    rows = [row for part in chosen for row in texts[part.splitname][part.from_ : part.to]]
    _tell([one for part in chosen for one in found[part.splitname]], len(rows), unit, name)
    return Dataset.from_dict({"text": [text for text, _ in rows], "document": [document for _, document in rows]})


def unwrapped(text: str) -> str:
    """A text without the line breaks of its wrapping; paragraphs are parted by one blank line."""
    return "\n\n".join(_blocks(text))


def wrapped(text: str) -> bool:
    """Whether most line breaks within paragraphs stand where the next word would not have fitted, and where no sentence ends."""
    breaks = [pair for block in _paragraphs(text) for pair in _breaks(block)]
    width = _width(breaks)
    return width >= NARROWEST and 2 * sum(_is_full(*pair, width) and not _ENDED.search(pair[0]) for pair in breaks) > len(breaks)


def _texts(text: str, unit: str) -> list[str]:
    if unit == "document":
        return [unwrapped(text)] if text.strip() else []
    return list(_blocks(text)) if unit == "paragraph" else [line for line in text.split("\n") if line.strip()]


def _blocks(text: str) -> Iterator[str]:
    """The paragraphs, their lines joined where they were wrapped."""
    joins, width = wrapped(text), _width([pair for block in _paragraphs(text) for pair in _breaks(block)])
    for block in _paragraphs(text):
        long = [len(line) >= LONG * width for line, _ in _breaks(block)]
        yield _joined(block) if joins and 2 * sum(long) > len(long) else block


def _joined(block: str) -> str:
    """A paragraph on one line, but for what begins a line by itself."""
    text = ""
    for line in block.split("\n"):
        text = text.rstrip() + ("" if _goes_on(text.rstrip(), line) else " ") + line if _may_join(text, line) else f"{text}\n{line}"
    return text.removeprefix("\n")


def _may_join(before: str, line: str) -> bool:
    """Whether the break between two lines may be one of wrapping; Markdown ends a line by two spaces."""
    last = before.rpartition("\n")[2]
    return bool(last) and not (_KEPT.match(line) or last.startswith("#") or last.endswith("  "))


def _goes_on(text: str, line: str) -> bool:
    """Whether a line goes on without a space: after the hyphen of a word, and in scripts that have none."""
    return bool(re.search(r"\w-$", text)) or (len(pieces(text[-1:] + "a")) > 1 and len(pieces("a" + line[:1])) > 1)


def _paragraphs(text: str) -> list[str]:
    return [block.rstrip() for block in _BLANK.split(text.strip("\n")) if block.strip()]


def _breaks(block: str) -> list[tuple[str, str]]:
    """The lines before and after each break that may be one of wrapping."""
    return [pair for pair in pairwise(block.split("\n")) if _may_join(*pair)]


def _width(breaks: Sequence[tuple[str, str]]) -> int:
    """Characters that a line may have, if the text is wrapped at all."""
    lengths = sorted(len(line.rstrip()) for line, _ in breaks)
    return lengths[int(SHARE * (len(lengths) - 1))] if lengths else 0


def _is_full(line: str, following: str, width: int) -> bool:
    """Whether the next line's first word would not have fitted behind this one."""
    word = next(iter(pieces(following)), "")
    return len(line.rstrip()) + 1 + len(word) > width


def _files(arguments: Mapping[str, Any]) -> dict[str, list[str]]:
    """The files of each split; a folder is one split."""
    folder = Path(arguments["path"], arguments.get("data_dir", "")) if arguments["path"] != "text" else Path(arguments.get("data_dir", "."))
    given = arguments.get("data_files")
    if given is None:
        return {"train": sorted(str(path) for path in folder.rglob("*") if path.is_file() and is_text(path.name))}
    named = given if isinstance(given, Mapping) else {"train": given}
    return {
        split: [file for one in ([some] if isinstance(some, str) else some) for file in _matching(one)] for split, some in named.items()
    }


def _matching(file: str) -> list[str]:
    return [file] if "://" in file or Path(file).is_file() else sorted(glob(file, recursive=True)) or [file]


def _document(file: str) -> Document:
    if "://" in file:
        with scratch() as cache:
            rows = load_dataset("text", data_files=file, split="train", sample_by="document", cache_dir=cache, keep_in_memory=True)
        return Document(Path(urlsplit(file).path).name, "\n\n".join(rows["text"]).removeprefix("\ufeff"))
    with gzip.open(file, "rt", encoding="utf-8-sig") if file.endswith(".gz") else open(file, encoding="utf-8-sig") as opened:
        try:
            text = opened.read()
        except UnicodeDecodeError as error:
            raise ValueError(f"{Path(file).name} is not in UTF-8, at byte {error.start}") from error
    if "\0" in text:
        raise ValueError(f"{Path(file).name} has zero bytes, as UTF-16 has and no text in utf-8: save it as UTF-8")
    return Document(Path(file).name, text)


def _tell(documents: Sequence[Document], rows: int, unit: str, name: str) -> None:
    """What the files hold and how they are read."""
    blocks = [_paragraphs(one.text) for one in documents]
    where = documents[0].name if len(documents) == 1 else f"{len(documents)} files"
    joined = ", wrapped lines joined" if unit != "line" and any(wrapped(one.text) for one in documents) else ""
    what = f"{sum(map(len, blocks)):,} paragraphs" if unit == "document" else f"a {unit} each"
    logger.info("%s: %s: %s, %s%s", name, where, f"{rows:,} text{'' if rows == 1 else 's'}", what, joined)
    for one, found in zip(documents, blocks, strict=True):
        lines = one.text.count("\n")
        if unit == "document" and lines >= LINES and len(found) * LINES <= lines and not wrapped(one.text):
            logger.warning(
                "Warning: %s: %s has %d lines and hardly a blank one, and is read as one text; if each line is a text, write "
                "{path: %s, sample_by: line}.",
                name,
                one.name,
                lines,
                one.name,
            )
