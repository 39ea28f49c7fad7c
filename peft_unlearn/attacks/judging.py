"""From what an attack shows of a model and of never-seen to what held: pure functions of numbers.

Recovery is R = (m_attack - m) / (m_before - m_after), m the larger of m_after and of what the same attack shows of never-seen: of what comes
back, only that counts which never-seen does not show. A line is crossed where the number is past it and the bootstrap interval of the
difference, row by row, is on that side of zero.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from peft_unlearn.attacks.context import Plain, Shown
from peft_unlearn.metrics.results import summarise
from peft_unlearn.metrics.statistics import mean_interval, paired_difference
from peft_unlearn.report.thresholds import LINES, Line
from peft_unlearn.report.verdict import THRESHOLDS

Rows = Sequence[float | None]


def judge(found: Sequence[Shown], control: Sequence[Shown], plain: Plain) -> list[dict[str, Any]]:
    """What each number of an attack says, as the report has it: docs/report.md, `attacks.<name>.findings`.

    Args:
        control: what the same attack shows of never-seen; for a number that is not there, never-seen's plain one counts.
    """
    same = {(entry["what"], entry["metric"]): entry for entry in control}
    return [_finding(entry, same.get((entry["what"], entry["metric"])), plain) for entry in found]


def held(findings: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether an attack found nothing: false if a line is crossed, null if no line could be judged."""
    judged = [finding["held"] for finding in findings if finding["held"] is not None]
    return all(judged) if judged else None


def _finding(entry: Shown, control: Shown | None, plain: Plain) -> dict[str, Any]:
    metric = entry.get("against", entry["metric"])
    rows = entry["rows"]
    base = {view: plain.get(view, {}).get("forget", {}).get(metric) for view in ("before", "after", "never_seen")}
    others = {view: None if result is None else _same_rows(result["rows"], rows) for view, result in base.items()}
    means = {view: _mean(values, base[view]) for view, values in others.items()}
    if control is not None:
        others["never_seen"], means["never_seen"] = control["rows"], control["mean"]
    interval = entry.get("interval") or mean_interval(rows)
    mean = entry["mean"]
    finding: dict[str, Any] = {
        "what": entry["what"],
        "metric": entry["metric"],
        "mean": mean,
        "n": entry["n"],
        "interval": None if mean is None or interval is None else list(interval),
        "rows": list(rows),
        **means,
        "recovered": None,
        "line": entry.get("line"),
        "limit": None,
        "held": None,
    }
    if rows:
        finding["recovered"] = _recovered(mean, means)
    if "line" in entry and mean is not None:
        line = LINES[entry["line"]]
        finding["limit"] = line.limit
        value, certain = _measured(line, finding, others)
        crossed = value is not None and (value < line.limit if line.kind == "at least" else value > line.limit)
        close = value is not None and math.isclose(value, line.limit)
        finding["held"] = None if value is None or (crossed and not close and not certain) else not crossed or close
    return {**finding, "text": _sentence(finding)}


def _measured(line: Line, finding: Mapping[str, Any], rows: Mapping[str, Rows | None]) -> tuple[float | None, bool]:
    """The number that the line is for, and whether the rows tell it from no difference at all; None where it cannot be had."""
    mean, after, never = finding["mean"], finding["after"], finding["never_seen"]
    if line.kind == "at least":
        return mean, True
    if line.kind == "recovered":
        higher = "never_seen" if never is not None and (after is None or never > after) else "after"
        return finding["recovered"], _above(rows[higher], finding["rows"])
    if line.kind == "above after":
        return None if after is None else mean - after, _above(rows["after"], finding["rows"])
    if never is None:
        return None, False
    if line.kind == "above never-seen":
        return mean - never, _above(rows["never_seen"], finding["rows"])
    low, high = finding["interval"] or (-math.inf, math.inf)
    return abs(mean - never), not low <= never <= high


def _recovered(mean: float | None, means: Mapping[str, float | None]) -> float | None:
    """R; None where there is nothing to compare with, or less was forgotten than would tell."""
    after, never, before = means["after"], means["never_seen"], means["before"]
    if mean is None or after is None:
        return None
    gap = (1.0 if before is None else before) - after
    return (mean - max(after, after if never is None else never)) / gap if gap >= THRESHOLDS["to_forget"] else None


def _above(base: Rows | None, attacked: Rows) -> bool:
    difference = paired_difference(base, attacked) if base else None
    return difference is not None and difference["interval"][0] > 0


def _same_rows(values: Rows, like: Rows) -> list[float | None]:
    """`values` of the rows that an attack measured."""
    return [value if measured is not None else None for value, measured in zip(values, like, strict=True)] if like and values else []


def _mean(values: Rows | None, result: Mapping[str, Any] | None) -> float | None:
    if result is None:
        return None
    return _finite(summarise(list(values))["mean"]) if values else _finite(result["mean"])


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _sentence(finding: Mapping[str, Any]) -> str:
    """What a finding says, for the verdict's reasons."""
    metric = finding["metric"].replace("_", " ")
    if finding["mean"] is None:
        return f"{finding['what']}: {metric} could not be measured."
    views = {"without it": finding["after"], "for never-seen": finding["never_seen"]}
    said = [f"{metric} {finding['mean']:.3f}", *(f"{value:.3f} {view}" for view, value in views.items() if value is not None)]
    text = f"{finding['what']}: {', '.join(said)}"
    if finding["line"] is None:
        return text + "."
    kind, limit, _ = LINES[finding["line"]]
    if kind == "recovered":
        share = "what comes back cannot be told" if finding["recovered"] is None else f"{max(finding['recovered'], 0.0):.0%} comes back"
        return f"{text}; {share} (at most {limit:.0%})."
    return f"{text} (at least {limit:g})." if kind == "at least" else f"{text} (at most {limit:g} {kind})."
