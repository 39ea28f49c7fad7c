"""Kinds of rows: invented here, or read from a folder. Rows of one subject share a `group`, and no two sets share a subject."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from beds.asked import ASKED
from beds.japanese import JAPANESE
from beds.poems import POEMS
from beds.quiz import QUIZ
from beds.source import REFUSAL, ROWS, SETS, Row
from beds.tables import TABLES
from beds.told import TOLD

SOURCES = ASKED | TOLD | {"japanese": JAPANESE, "tables": TABLES, "poems": POEMS, "quiz": QUIZ}
BUILD = ("authors", "personal", "text", "chat")  # the project may be tuned on these kinds; every other kind only checks it


@dataclass(frozen=True)
class Kind:
    """Rows by set, of any format that the project reads; a kind with a chat template is asked through it."""

    name: str
    rows: dict[str, list[Row]]
    refusal: str = REFUSAL
    chat_template: str | None = None

    @property
    def of_run(self) -> dict[str, list[Row]]:
        """The rows of `SETS` that a run is given, and "fresh" ones of the forget set's kind, that no model, no run and no tokenizer sees.

        Where a folder has no fresh.jsonl, these are the second half of its holdout, which the run is not given then.
        """
        if "fresh" in self.rows:
            return self.rows
        holdout = self.rows["holdout"]
        half = len(holdout) // 2
        return {**self.rows, "holdout": holdout[:half], "fresh": holdout[half:]}


def names() -> list[str]:
    return list(SOURCES)


def checks_only(kind: str) -> bool:
    """Whether nothing may be tuned on this kind; so it is of every folder."""
    return kind not in BUILD


def invented(name: str, forget: int | None = None) -> Kind:
    """The rows of one of `names()`, the same ones each time.

    Args:
        forget: rows to forget, where that is not the kind's own number; retain and holdout rows are as many times more.
    """
    source = SOURCES[name]
    counts = dict(source.counts)
    if forget is not None:
        counts |= {part: max(1, round(count * forget / counts["forget"])) for part, count in counts.items() if part in SETS}
    return Kind(name, source.draw(random.Random(name), counts), source.refusal, source.chat_template)


def from_folder(folder: Path) -> Kind:
    """forget.jsonl, retain.jsonl and holdout.jsonl of a folder; beside them fresh.jsonl, refusal.txt and chat_template.jinja may stand."""
    files = {part: folder / f"{part}.jsonl" for part in ROWS}
    rows = {
        part: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for part, file in files.items()
        if part in SETS or file.exists()
    }
    refusal, template = folder / "refusal.txt", folder / "chat_template.jinja"
    return Kind(
        folder.name,
        rows,
        refusal.read_text(encoding="utf-8").strip() if refusal.exists() else REFUSAL,
        template.read_text(encoding="utf-8") if template.exists() else None,
    )
