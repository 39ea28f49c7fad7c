"""From what an attack shows of a model and of the never-seen model to what passed: pure functions of numbers.

Recovery is R = (a - r) / (b - m): a under attack, b before, m after, r the larger of m and of what the same attack shows of the never-seen model. Of
what comes back, only that counts which the never-seen model does not show. R is at most `limit` where the mean over rows of

    d_i = a_i - r_i - limit (b_i - m_i)

is at most 0: a ratio of means becomes one mean, whose interval is known (Fieller, 1954). An attack is an equivalence test: a number passes where its
whole 95 % interval is within the limit, fails where all of it is past, and otherwise too few rows were asked.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from peft_unlearn.attacks.context import Plain, Shown
from peft_unlearn.metrics.spread import quantile
from peft_unlearn.metrics.statistics import Estimate, mean_estimate, rows_needed
from peft_unlearn.report.thresholds import THRESHOLDS, Threshold

Rows = Sequence[float | None]
EQUAL = 1e-9  # a number on the line is not past it
ALIKE = 23  # rows that are all alike and show that at most `known_rows` of such rows are not: 1 - .025^(1/n)
PASSED = {"passed": True, "failed": False}  # every other state is neither
NO_TWIN = "there is no never-seen model to compare with"


class Outcome(NamedTuple):
    """A number's state, and a reason where it neither passed nor failed."""

    state: str  # "passed", "failed", "not shown", "not measured", "reported"
    reason: str | None = None


class Views(NamedTuple):
    """One metric without the attack, of the rows that it measured; `never_seen` under the same attack where that was made."""

    rows: dict[str, Rows]  # by view: "before", "after", "never_seen"
    means: dict[str, float | None]
    lost: list[str]  # views that were measured and are not finite: their rows do not say which one was lost

    @property
    def reference(self) -> str:
        """The view that what comes back is counted from: the higher mean of after and never-seen."""
        after, never = self.means["after"], self.means["never_seen"]
        return "never_seen" if never is not None and (after is None or never > after) else "after"


def judge(found: Sequence[Shown], control: Sequence[Shown], plain: Plain, groups: Sequence[int] = ()) -> list[dict[str, Any]]:
    """What each number of an attack says, as the report has it: docs/reference/report-json.md, `attacks.<name>.findings`.

    Args:
        control: what the same attack shows of the never-seen model; for a number that is not there, its plain one counts.
        groups: of the forget set's rows, which belong together; () where each stands alone.
    """
    same = {(entry["what"], entry["metric"]): entry for entry in control}
    return [_finding(entry, same.get((entry["what"], entry["metric"])), plain, groups) for entry in found]


def passed(findings: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether a model passed an attack: false if a number failed, true if all that can be judged passed, None otherwise."""
    judged = [finding["passed"] for finding in findings if finding["state"] != "reported"]
    return False if False in judged else all(judged) if judged and None not in judged else None


def reason(findings: Sequence[Mapping[str, Any]]) -> str:
    """Why an attack neither passed nor failed: the first number that kept it from passing."""
    open_ = [finding for finding in findings if finding["state"] in ("not shown", "not measured")]
    return str(open_[0]["reason"]) if open_ else "its numbers are only reported"


def _finding(entry: Shown, control: Shown | None, plain: Plain, groups: Sequence[int]) -> dict[str, Any]:
    rows, mean, of = entry["rows"], entry["mean"], entry.get("set", "forget")
    views = _views(entry, control, plain, of)
    ids = groups if of == "forget" and len(groups) == len(rows) else None
    own = mean_estimate(rows, ids)
    interval = entry.get("interval") or (own and own.interval)
    share, gap = _recovered(mean, views) if rows else (None, None)
    threshold = THRESHOLDS[entry["threshold"]] if "threshold" in entry else None
    test = _test(entry, threshold, views, gap, ids)
    judged = None if test.state == "reported" else threshold
    finding: dict[str, Any] = {
        "what": entry["what"],
        "metric": entry["metric"],
        "mean": mean,
        "n": entry["n"],
        "interval": None if mean is None or interval is None else list(interval),
        "rows": list(rows),
        **views.means,
        "recovered": share,
        "threshold": None if judged is None else entry["threshold"],
        "limit": None if judged is None or mean is None else judged.limit,
        "passed": PASSED.get(test.state),
        "state": test.state,
        "reason": test.reason,
    }
    return {**finding, "text": _sentence(finding)}


def _test(entry: Shown, threshold: Threshold | None, views: Views, gap: float | None, groups: Sequence[int] | None) -> Outcome:
    """Compare one number with its threshold."""
    mean = entry["mean"]
    if threshold is None:
        return Outcome("reported")
    if mean is None:
        lost = entry.get("lost", 0)
        nothing = "no row has anything to measure" if entry["rows"] else "it is not known"
        return Outcome("not measured", f"{lost} of {entry['n']} rows are not finite" if lost else nothing)
    if threshold.kind == "at least":
        return Outcome("passed" if mean >= threshold.limit - EQUAL else "failed")
    if threshold.kind == "recovered" and gap is not None and not views.lost and gap < THRESHOLDS["to_forget"].limit:
        return Outcome("reported", "too little of it was forgotten to tell what comes back")
    view = {"recovered": views.reference, "above after": "after"}.get(threshold.kind, "never_seen")
    if unknown := [name for name in views.lost if threshold.kind == "recovered" or name == view]:
        return Outcome("not measured", f"the numbers that it is compared with ({unknown[0].replace('_', ' ')}) are not finite")
    if views.means[view] is None:
        return Outcome("not measured", NO_TWIN if view == "never_seen" else "it was not measured without the attack")
    if not entry["rows"]:
        return _of_a_set(entry, threshold, views.means[view])
    found = mean_estimate(_contrast(entry["rows"], views, view, threshold), groups)
    if found is None:
        return Outcome("not measured", "no row was measured on both sides")
    return _compared(found, 0.0 if threshold.kind == "recovered" else threshold.limit)


def _contrast(rows: Rows, views: Views, view: str, threshold: Threshold) -> list[float | None]:
    """The rows whose mean is compared: d_i of R, or the difference from the view itself."""
    attacked = zip(rows, views.rows[view], views.rows["before"], views.rows["after"], strict=True)
    if threshold.kind != "recovered":
        return [None if a is None or r is None else a - r for a, r, _, _ in attacked]
    return [
        None if a is None or r is None or m is None else a - r - threshold.limit * ((1.0 if b is None else b) - m)
        for a, r, b, m in attacked
    ]


def _of_a_set(entry: Shown, threshold: Threshold, never: float | None) -> Outcome:
    """A number of a set as a whole, by the interval of its difference from the never-seen model: on either side of 0 where the kind says so."""
    if "excess" not in entry:
        return Outcome("not measured", "the interval of its difference from the never-seen model is not known")
    mean, (low, high) = (entry["mean"] or 0.0) - (never or 0.0), entry["excess"]
    error = (high - low) / 2 / quantile(math.inf)
    if threshold.kind == "beside never-seen":  # the interval of the distance
        mean, low, high = abs(mean), max(low, -high, 0.0), max(high, -low)
    return _compared(Estimate(mean, low, high, error, math.inf, entry["n"], entry["n"]), threshold.limit)


def _compared(found: Estimate, limit: float) -> Outcome:
    """A 95 % interval beside a limit: within, past, or on both sides of it, and then how many rows would tell."""
    if math.isnan(found.mean):
        return Outcome("not measured", "some of its rows are not finite")
    if found.high <= limit + EQUAL and (found.error > EQUAL or found.n >= ALIKE):
        return Outcome("passed")
    if found.low > limit + EQUAL:
        return Outcome("failed")
    needed = rows_needed(found, limit) if found.error > EQUAL else ALIKE
    more = "more rows would tell" if needed is None else f"about {needed} would show it"
    return Outcome("not shown", f"not shown with {found.n} row{'s' * (found.n != 1)}; {more}")


def _views(entry: Shown, control: Shown | None, plain: Plain, of: str) -> Views:
    """The metric without the attack, of the rows that the attack measured."""
    found = Views({}, {}, [])
    for view in ("before", "after", "never_seen"):
        result: Any = plain.get(view, {}).get(of, {}).get(entry["metric"])
        if view == "never_seen" and control is not None:
            result = control
        rows = [None] * len(entry["rows"]) if result is None else _same_rows(result["rows"], entry["rows"])
        whole = None if result is None or result["mean"] is None or not math.isfinite(result["mean"]) else float(result["mean"])
        if result is not None and result["n"] and whole is None:
            found.lost.append(view)
        measured = [value for value in rows if value is not None]
        found.rows[view] = rows
        found.means[view] = float(np.mean(measured)) if whole is not None and measured else whole
    return found


def _recovered(mean: float | None, views: Views) -> tuple[float | None, float | None]:
    """R and the gap b - m that it is a share of; None where there is nothing to compare with, no R where less was forgotten than would tell."""
    before, after = views.means["before"], views.means["after"]
    if mean is None or after is None:
        return None, None
    gap = (1.0 if before is None else before) - after
    reference = views.means[views.reference] or 0.0
    return (mean - reference) / gap if gap >= THRESHOLDS["to_forget"].limit else None, gap


def _same_rows(values: Rows, like: Rows) -> list[float | None]:
    """`values` of the rows that an attack measured."""
    return [value if measured is not None else None for value, measured in zip(values, like, strict=True)] if like and values else []


def _sentence(finding: Mapping[str, Any]) -> str:
    """What a finding says, for the verdict's reasons."""
    metric, why = finding["metric"].replace("_", " "), finding["reason"]
    if finding["mean"] is None:
        return f"{finding['what']}: {metric} could not be measured{f' ({why})' if why else ''}."
    views = {"without it": finding["after"], "for the never-seen model": finding["never_seen"]}
    said = [f"{metric} {finding['mean']:.3f}", *(f"{value:.3f} {view}" for view, value in views.items() if value is not None)]
    text = f"{finding['what']}: {', '.join(said)}"
    if finding["threshold"] is not None:
        limit, kind = THRESHOLDS[finding["threshold"]].limit, THRESHOLDS[finding["threshold"]].kind
        share = "what comes back cannot be told" if finding["recovered"] is None else f"{max(finding['recovered'], 0.0):.0%} comes back"
        compared = {"recovered": f"; {share} (at most {limit:.0%})", "at least": f" (at least {limit:g})"}
        text += compared.get(kind, f" (at most {limit:g} {kind})")
    return f"{text}; {why}." if why else f"{text}."
