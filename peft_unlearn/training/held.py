"""What a run holds where it is, beside what it forgets and keeps: a part of the holdout, and texts that the model wrote itself."""

from datasets import Dataset, concatenate_datasets

FEWEST = 24  # holdout rows below which all are looked at, and none is held
BLOCKS = 6


def unchanged(held: Dataset | None, neutral: Dataset | None) -> Dataset:
    """What shall stay as it was: rows of the holdout, and about as many neutral ones, whichever are fewer in as many copies as that takes."""
    if held is None or neutral is None:
        found = neutral if held is None else held
        assert found is not None
        return found
    most = max(len(held), len(neutral))
    sides = [side.select_columns(["input_ids", "labels"]) for side in (held, neutral)]
    copies = [side.select([*range(len(side))] * max(1, round(most / len(side)))) for side in sides]
    return concatenate_datasets([copy.cast(copies[0].features) for copy in copies])


def split(rows: int, holdout_kl: str) -> tuple[list[int], list[int]]:
    """Numbers of the holdout rows that a run holds where they are, and of those that it only looks at: of few rows it holds none.

    Blocks, for rows of one author mostly stand together: of six, the first and the fourth are held.
    """
    if holdout_kl == "none" or rows < FEWEST:
        return [], list(range(rows))
    held = [row for row in range(rows) if row * BLOCKS // rows % 3 == 0]
    return held, [row for row in range(rows) if row * BLOCKS // rows % 3]
