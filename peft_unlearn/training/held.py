"""What a run holds where it is, beside what it forgets and keeps: a part of the holdout, texts that the model wrote itself, and what is forgotten."""

from collections.abc import Sequence

from datasets import Dataset, concatenate_datasets

FEWEST = 24  # holdout rows below which all are looked at, and none is held
BLOCKS = 6


def unchanged(*parts: Dataset) -> Dataset:
    """What shall stay as it is: rows of the holdout, neutral ones, forgotten ones: about as many of each, the fewer in so many copies."""
    if len(parts) == 1:
        return parts[0]
    most = max(map(len, parts))
    return joined([part.select([*range(len(part))] * max(1, round(most / len(part)))) for part in parts])


def joined(parts: Sequence[Dataset]) -> Dataset:
    """The tokens and labels of several sets as those of one."""
    sides = [part.select_columns(["input_ids", "labels"]) for part in parts]
    return concatenate_datasets([side.cast(sides[0].features) for side in sides])


def split(rows: int, holdout_kl: str) -> tuple[list[int], list[int]]:
    """Numbers of the holdout rows that a run holds where they are, and of those that it only looks at: of few rows it holds none.

    Blocks, for rows of one author mostly stand together: of six, the first and the fourth are held.
    """
    if holdout_kl == "none" or rows < FEWEST:
        return [], list(range(rows))
    held = [row for row in range(rows) if row * BLOCKS // rows % 3 == 0]
    return held, [row for row in range(rows) if row * BLOCKS // rows % 3]
