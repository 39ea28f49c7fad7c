"""How numbers and names of a report are written, in the terminal, on the page and on the card."""

from collections.abc import Mapping
from typing import Any

FINDING_HEADS = ("attacked", "without", "never-seen", "back", "threshold", "passed")
PASSED = {True: "passed", False: "failed", None: "–"}


def show(value: float) -> str:
    """A number in at most six characters: 0.0123, 0.950, -0.003, 12.3, -99.8, 5215."""
    size = abs(value)
    decimals = 4 if 0 < value < 0.02 else 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0: no minus before a zero


def label(name: str) -> str:
    """A key in words: "never-seen", "extraction strength"."""
    return name.replace("never_seen", "never-seen").replace("_", " ")


def interval(entry: Mapping[str, Any]) -> str:
    """The 95 % interval of an entry in brackets, with a space before it; nothing where there is none."""
    bounds = entry["interval"]
    return f" [{show(bounds[0])}, {show(bounds[1])}]" if bounds else ""


def finding_cells(finding: Mapping[str, Any]) -> dict[str, str]:
    """The numbers of an attack's finding, by the heads of their columns."""
    numbers = [show(finding[key]) if finding[key] is not None else "–" for key in ("mean", "after", "never_seen")]
    share = "–" if finding["recovered"] is None else f"{round(finding['recovered'], 2) + 0.0:.0%}"  # + 0: no "-0%"
    limit = "–" if finding["limit"] is None else f"{finding['limit']:g}"
    cells = [*numbers, share, limit, PASSED[finding["passed"]] if finding["limit"] is not None else ""]
    return dict(zip(FINDING_HEADS, cells, strict=True))


def finding_label(finding: Mapping[str, Any]) -> str:
    """Which form of an attack, and which metric."""
    return f"{finding['what']}, {label(finding['metric'])}"


def union(mappings: Any) -> list[str]:
    """Keys of all mappings in order of appearance."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))
