"""From what an attack shows of a model and of the never-seen model to what passed: pure functions of numbers.

Recovery is R = (m_attack - m) / (m_before - m_after), m the larger of m_after and of what the same attack shows of the never-seen model: of what
comes back, only that counts which the never-seen model does not show. A threshold is crossed where the number is past it and the interval
of the difference, row by row, is on that side of zero.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from peft_unlearn.attacks.context import Plain, Shown
from peft_unlearn.metrics.results import summarize
from peft_unlearn.metrics.statistics import mean_estimate, paired_difference
from peft_unlearn.report.thresholds import THRESHOLDS, Threshold

Rows = Sequence[float | None]


def judge(found: Sequence[Shown], control: Sequence[Shown], plain: Plain) -> list[dict[str, Any]]:
    """What each number of an attack says, as the report has it: docs/reference/report-json.md, `attacks.<name>.findings`.

    Args:
        control: what the same attack shows of the never-seen model; for a number that is not there, its plain one counts.
    """
    same = {(entry["what"], entry["metric"]): entry for entry in control}
    return [_finding(entry, same.get((entry["what"], entry["metric"])), plain) for entry in found]


def passed(findings: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether a model passed an attack: false if a threshold is crossed, None if none could be judged."""
    judged = [finding["passed"] for finding in findings if finding["passed"] is not None]
    return all(judged) if judged else None


def _finding(entry: Shown, control: Shown | None, plain: Plain) -> dict[str, Any]:
    metric, rows = entry["metric"], entry["rows"]
    base = {view: plain.get(view, {}).get("forget", {}).get(metric) for view in ("before", "after", "never_seen")}
    others = {view: None if result is None else _same_rows(result["rows"], rows) for view, result in base.items()}
    means = {view: _mean(values, base[view]) for view, values in others.items()}
    if control is not None:
        others["never_seen"], means["never_seen"] = control["rows"], control["mean"]
    interval = entry.get("interval") or ((found := mean_estimate(rows)) and found.interval)
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
        "threshold": entry.get("threshold"),
        "limit": None,
        "passed": None,
    }
    if rows:
        finding["recovered"] = _recovered(mean, means)
    if "threshold" in entry and mean is not None:
        threshold = THRESHOLDS[entry["threshold"]]
        limit = finding["limit"] = threshold.limit
        value, certain = _measured(threshold, finding, others)
        crossed = value is not None and (value < limit if threshold.kind == "at least" else value > limit)
        close = value is not None and math.isclose(value, limit)
        finding["passed"] = None if value is None or (crossed and not close and not certain) else not crossed or close
    return {**finding, "text": _sentence(finding)}


def _measured(threshold: Threshold, finding: Mapping[str, Any], rows: Mapping[str, Rows | None]) -> tuple[float | None, bool]:
    """The number that is compared with the threshold, and whether the rows tell it from no difference at all; None where it cannot be had."""
    mean, after, never = finding["mean"], finding["after"], finding["never_seen"]
    if threshold.kind == "at least":
        return mean, True
    if threshold.kind == "recovered":
        higher = "never_seen" if never is not None and (after is None or never > after) else "after"
        return finding["recovered"], _above(rows[higher], finding["rows"])
    if threshold.kind == "above after":
        return None if after is None else mean - after, _above(rows["after"], finding["rows"])
    if never is None:
        return None, False
    if threshold.kind == "above never-seen":
        return mean - never, _above(rows["never_seen"], finding["rows"])
    low, high = finding["interval"] or (-math.inf, math.inf)
    return abs(mean - never), not low <= never <= high


def _recovered(mean: float | None, means: Mapping[str, float | None]) -> float | None:
    """R; None where there is nothing to compare with, or less was forgotten than would tell."""
    after, never, before = means["after"], means["never_seen"], means["before"]
    if mean is None or after is None:
        return None
    gap = (1.0 if before is None else before) - after
    return (mean - max(after, after if never is None else never)) / gap if gap >= THRESHOLDS["to_forget"].limit else None


def _above(base: Rows | None, attacked: Rows) -> bool:
    difference = paired_difference(base, attacked) if base else None
    return difference is not None and difference["interval"] is not None and difference["interval"][0] > 0


def _same_rows(values: Rows, like: Rows) -> list[float | None]:
    """`values` of the rows that an attack measured."""
    return [value if measured is not None else None for value, measured in zip(values, like, strict=True)] if like and values else []


def _mean(values: Rows | None, result: Mapping[str, Any] | None) -> float | None:
    if result is None:
        return None
    return _finite(summarize(list(values))["mean"]) if values else _finite(result["mean"])


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _sentence(finding: Mapping[str, Any]) -> str:
    """What a finding says, for the verdict's reasons."""
    metric = finding["metric"].replace("_", " ")
    if finding["mean"] is None:
        return f"{finding['what']}: {metric} could not be measured."
    views = {"without it": finding["after"], "for the never-seen model": finding["never_seen"]}
    said = [f"{metric} {finding['mean']:.3f}", *(f"{value:.3f} {view}" for view, value in views.items() if value is not None)]
    text = f"{finding['what']}: {', '.join(said)}"
    if finding["threshold"] is None:
        return text + "."
    limit, kind = THRESHOLDS[finding["threshold"]].limit, THRESHOLDS[finding["threshold"]].kind
    if kind == "recovered":
        share = "what comes back cannot be told" if finding["recovered"] is None else f"{max(finding['recovered'], 0.0):.0%} comes back"
        return f"{text}; {share} (at most {limit:.0%})."
    return f"{text} (at least {limit:g})." if kind == "at least" else f"{text} (at most {limit:g} {kind})."
