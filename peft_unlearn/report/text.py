"""How numbers and names of a report are written, in the terminal, on the page and on the card."""

from collections.abc import Mapping
from typing import Any

from peft_unlearn.util.numbers import show

FINDING_HEADS = ("attacked", "without", "never-seen", "back", "threshold", "passed")
PASSED = {True: "passed", False: "failed", None: "–"}


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
