"""The report of a run: numbers before, after and of a model that never saw the forget set, and no text of any row.

docs/report.md documents the schema.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from peft_unlearn.evaluation.suite import Evaluation, Result

SCHEMA = 1


def build(results: Mapping[str, Mapping[str, Evaluation]], run: Mapping[str, Any]) -> dict[str, Any]:
    """Report of `results[set][view]` (sets such as "forget", "retain"; views "before", "after", "never_seen") and the run's settings.

    The report holds JSON values only: settings of other types become strings, and non-finite metrics null with a reason.
    """
    return {
        "schema": SCHEMA,
        "run": json.loads(json.dumps(run, default=str), parse_constant=str),
        "results": {
            name: {view: {metric: _entry(result) for metric, result in evaluation.items()} for view, evaluation in views.items()}
            for name, views in results.items()
        },
    }


def write(report: Mapping[str, Any], path: str | Path) -> None:
    """Write `report` as JSON beside `path`, then rename: a run cut at any moment leaves the old report or the new one."""
    path = Path(path)
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(beside, path)


def table(report: Mapping[str, Any]) -> Table:
    """Means of a report: a row for each metric of each set, a column for each view."""
    results = report["results"]
    views = _union(results.values())
    grid = Table("set", "metric", *(Column(view.replace("_", "-"), justify="right") for view in views), Column("rows", justify="right"))
    for name, evaluations in results.items():
        for metric in _union(evaluations.values()):
            found = [evaluations.get(view, {}).get(metric) for view in views]
            counts = {entry["n"] for entry in found if entry}
            grid.add_row(name, metric.replace("_", " "), *map(_cell, found), "/".join(map(str, sorted(counts))))
        grid.add_section()
    return grid


def side_by_side(questions: Sequence[str], answers: Mapping[str, Sequence[str]]) -> Table:
    """Questions beside the answers of each view, in the order of `answers`. Shows row text: for the demo, or where the user asks for it."""
    grid = Table("question", *(view.replace("_", "-") for view in answers), show_lines=True)
    for row in zip(questions, *answers.values(), strict=True):
        grid.add_row(*map(Text, row))  # as Text, so that [brackets] of a model are no markup
    return grid


def _entry(result: Result) -> dict[str, Any]:
    mean = result["mean"]
    entry: dict[str, Any] = {
        "mean": mean if math.isfinite(mean) else None,
        "n": result["n"],
        "rows": [value if value is not None and math.isfinite(value) else None for value in result["rows"]],
    }
    if result["n"] == 0:
        entry["reason"] = "no row has anything to measure"
    elif not math.isfinite(mean):
        lost = sum(value is not None and not math.isfinite(value) for value in result["rows"])
        entry["reason"] = f"the model's numbers are not finite in {lost} of {result['n']} rows"
    return entry


def _union(mappings: Any) -> list[str]:
    """Keys of all mappings in order of appearance."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "-"
    return entry["reason"] if entry["mean"] is None else f"{entry['mean']:.4f}"
