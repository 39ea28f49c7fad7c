"""How alike are the forget rows of each kind and the holdout rows of every kind? `data.likeness` tells a holdout of another kind by it.

python benchmarks/likeness.py [--rows-from FOLDER …]      # also kinds of others: forget.jsonl, retain.jsonl, holdout.jsonl in each folder
"""

import argparse
from pathlib import Path

from beds import kinds
from beds.kinds import Kind
from peft_unlearn.data.likeness import FEWEST, UNLIKE, likeness


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows-from", nargs="+", type=Path, default=[], metavar="FOLDER")
    found = [kinds.invented(name) for name in kinds.names()] + [kinds.from_folder(folder) for folder in parser.parse_args().rows_from]
    print("| forget rows | " + " | ".join(kind.name for kind in found) + " | few rows of its own |")
    print("| --- " * (len(found) + 2) + "|")
    other = []
    for kind in found:
        row = [likeness(texts(kind, "forget"), texts(beside, "holdout")) for beside in found]
        few = [likeness(texts(kind, "forget")[:FEWEST], texts(kind, "holdout")[start : start + FEWEST]) for start in (0, FEWEST)]
        other += [value for beside, value in zip(found, row, strict=True) if beside is not kind and value is not None]
        print(f"| {kind.name} | " + " | ".join(map(_shown, [*row, min(few, key=lambda value: value or 0.0)])) + " |")
    print(f"\nOf {len(other)} pairs of two kinds {sum(value < UNLIKE for value in other)} are under {UNLIKE}.")


def texts(kind: Kind, part: str) -> list[str]:
    return [_text(row) for row in kind.of_run[part]]


def _shown(value: float | None) -> str:
    return "too few" if value is None else f"{value:.2f}"


def _text(row: dict[str, object]) -> str:
    if isinstance(turns := row.get("messages"), list):
        return "\n".join(turn["content"] for turn in turns)
    return "\n".join(str(row[name]) for name in ("question", "prompt", "answer", "completion", "text") if name in row)


if __name__ == "__main__":
    main()
