"""The report of a run: numbers before, after and of a model that never saw the forget set, a verdict on them, and no text of any row.

docs/reference/report-json.md documents the schema.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft_unlearn.metrics.statistics import mean_estimate, paired_difference
from peft_unlearn.report.verdict import judge
from peft_unlearn.util import disk
from peft_unlearn.util.errors import UserError

SCHEMA = 4

# A set's views, each a mapping metric -> Result: `suite.Evaluation`, or one put together from several.
Views = Mapping[str, Mapping[str, Mapping[str, Any]]]

# What the view "never_seen" is, by its kind.
KINDS = {
    "retrained": "a model trained without the forget set",
    "base": "the base model, before it was trained on the forget set",
    "holdout": "rows of the same kind that no model saw, scored before unlearning",
    "estimate": "an estimate, and no model that was trained without the forget set",
    None: "not named",
}


def build(
    results: Mapping[str, Views],
    run: Mapping[str, Any],
    *,
    never_seen: Mapping[str, str | None] | None = None,
    definitions: str = "peft-unlearn",
    curve: Sequence[Mapping[str, float]] = (),
    attacks: Mapping[str, Any] | None = None,
    groups: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Report of `results[set][view]` (sets such as "forget", "retain", "holdout"; views "before", "after", "never_seen").

    Means get 95 % intervals over rows, by groups where rows belong together, and views paired differences; results of a set as a whole bring an
    "interval" of their own.
    The report holds JSON values only: settings of other types become strings, and non-finite metrics null with a reason.

    Args:
        run: the run's settings and facts.
        never_seen: what the view "never_seen" is: {"kind": "retrained", "base", "holdout" or "estimate", "name": of the model}. Without one,
            a holdout set before unlearning is named as what stands for it.
        definitions: whose definitions the metrics follow, "peft-unlearn" or "openunlearning".
        curve: {"step", "p_forget", "p_retain"} over training: mean probabilities of a token of the forget and of the retain batches.
        attacks: what an audit found, by attack, as docs/reference/report-json.md has it.
        groups: which rows of a set belong together (one author's, one document's): {"by": how they were found, "ids": a number for each row}.

    Raises:
        UserError: two views of a set have different rows, and cannot be compared row by row.
    """
    ids = {name: of_set["ids"] for name, of_set in (groups or {}).items()}
    found = {name: {view: entries(evaluation, ids.get(name)) for view, evaluation in views.items()} for name, views in results.items()}
    stands_in = "never_seen" not in found.get("forget", {}) and "before" in found.get("holdout", {})
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "definitions": definitions,
        "run": json.loads(json.dumps(run, default=str), parse_constant=str),
        "never_seen": {"kind": None, "name": None, **(never_seen or ({"kind": "holdout"} if stands_in else {}))},
        "results": found,
        "groups": {name: {"by": of_set["by"], "ids": list(of_set["ids"])} for name, of_set in (groups or {}).items()},
        "differences": {name: _differences(name, views, ids.get(name)) for name, views in found.items()},
        "curve": [{key: _finite(value) for key, value in point.items()} for point in curve],
    }
    if attacks is not None:
        report["attacks"] = attacks
    return {**report, "verdict": judge(report)}


def entries(evaluation: Mapping[str, Mapping[str, Any]], groups: Sequence[int] | None = None) -> dict[str, dict[str, Any]]:
    """Results of a set, by metric, as a report holds them: JSON values, with intervals. Of entries again the same."""
    return {metric: _entry(result, groups) for metric, result in evaluation.items()}


def write(report: Mapping[str, Any], path: str | Path) -> None:
    """Write `report` as JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")


def _entry(result: Mapping[str, Any], groups: Sequence[int] | None) -> dict[str, Any]:
    """A Result with its interval. Whatever else it brings ("layers", "p99") stays."""
    mean = _finite(result["mean"])
    rows = [_finite(value) for value in result["rows"]]
    interval = (estimate := mean_estimate(rows, groups)) and estimate.interval if rows else result.get("interval")
    if mean is None or interval is None or not all(map(math.isfinite, interval)):
        interval = None
    extra = {key: [_finite(x) for x in value] if isinstance(value, list | tuple) else _finite(value) for key, value in result.items()}
    entry = {**extra, "mean": mean, "n": result["n"], "interval": list(interval) if interval is not None else None, "rows": rows}
    if mean is None and "reason" not in entry:
        lost = sum(value is not None and not math.isfinite(value) for value in result["rows"])
        broken = f"the model's numbers are not finite in {lost} of {result['n']} rows"
        entry["reason"] = broken if result["n"] else "no row has anything to measure"
    return entry


def _differences(name: str, views: Views, groups: Sequence[int] | None) -> dict[str, dict[str, Any]]:
    """after - before and after - never_seen of each metric, row by row. A metric that is not finite in some row has none."""
    after = views.get("after", {})
    found: dict[str, dict[str, Any]] = {}
    for metric, entry in after.items():
        for view in ("before", "never_seen"):
            other = views.get(view, {}).get(metric)
            if other is None or entry["mean"] is None or other["mean"] is None:
                continue
            if len(entry["rows"]) != len(other["rows"]):
                raise UserError(
                    f"{view}: {metric} of the {name} set has {len(other['rows'])} rows there and {len(entry['rows'])} after unlearning, "
                    "evaluate both on the same rows."
                )
            if entry["rows"] and (difference := paired_difference(other["rows"], entry["rows"], groups)):
                found.setdefault(metric, {})[f"after - {view}"] = difference
    return found


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
