"""How numbers and names of a report are written, in the terminal, on the page and on the card."""

import math
from collections.abc import Mapping
from typing import Any

from peft_unlearn.report.knowledge import KNOWN, NOT_KNOWN, PARTLY_KNOWN
from peft_unlearn.util.numbers import show

FINDING_HEADS = ("attacked", "without", "never-seen", "back", "threshold", "passed")
PASSED = {True: "passed", False: "failed", None: "–"}
MARKS = {"passed": "✓", "failed": "✗", "not shown": "?", "not measured": "–"}
ANSWERS = {KNOWN: "yes", PARTLY_KNOWN: "in part", NOT_KNOWN: "no"}  # of a fine-tune that was to know its rows: nothing passes or fails

# Criteria whose number is by how much it is above what it is compared with: in nats, as an AUC, as a share. Of all others it is a share.
NATS = {"loss_beyond", "holdout_damage", "entropy"}
AUC = {"membership_above", "membership_below"}
MORE = {"known_rows", "degenerate", "degenerate_retain", "nonwords", "recites_others", "logit_lens"}
COUNTED = {"recited_rows", "recited_elsewhere", "secrets"}  # rows of which one is too many


def label(name: str) -> str:
    """A key in words: "never-seen", "extraction strength". A name with capitals is one of others, such as Q4_K_M, and stays."""
    return name.replace("never_seen", "never-seen").replace("_", " ") if name == name.lower() else name


def interval(entry: Mapping[str, Any]) -> str:
    """The 95 % interval of an entry in brackets, with a space before it; nothing where there is none."""
    bounds = entry["interval"]
    return f" [{show(bounds[0])}, {show(bounds[1])}]" if bounds else ""


def criterion_state(criterion: Mapping[str, Any]) -> str:
    """A criterion's state with its mark, told by both; of what a fine-tune knows the answer."""
    return ANSWERS.get(criterion["word"]) or f"{MARKS[criterion['state']]} {criterion['state']}"


def has_number(criterion: Mapping[str, Any]) -> bool:
    """Whether a criterion has a value and a limit of one kind. An attack's may differ, and what is known has no limit: their texts say it."""
    numbers = criterion["value"], criterion["threshold"]
    judged = criterion["word"] not in ANSWERS and not criterion["name"].startswith("attack_")
    return judged and all(number is not None and math.isfinite(number) for number in numbers)


def criterion_number(criterion: Mapping[str, Any]) -> str:
    """A criterion's number with its interval: "48% [40%, 55%]", "+0.31 [+0.20, +0.42] nats"; "–" where it has none."""
    if not has_number(criterion):
        return "–"
    name, value = criterion["name"], criterion["value"]
    if name in COUNTED:
        return f"{round(value * criterion['n'])} of {criterion['n']} rows"
    bounds = criterion["interval"]
    around = f" [{_amount(name, bounds[0])}, {_amount(name, bounds[1])}]" if bounds else ""
    if criterion["n"] == 1 and not bounds:
        around = " [unknown]"  # nothing says how far other rows lie
    return f"{_amount(name, value)}{around}{' nats' if name in NATS else ''}"


def criterion_limit(criterion: Mapping[str, Any]) -> str:
    """What a criterion's number may be."""
    if not has_number(criterion):
        return "–"
    if criterion["name"] in COUNTED:
        return "none"
    unit = " nats" if criterion["name"] in NATS else ""
    return f"{'at least' if at_least(criterion) else 'at most'} {_amount(criterion['name'], criterion['threshold'])}{unit}"


def answered(criterion: Mapping[str, Any]) -> str:
    """A criterion in a line: its question, and its number beside what is allowed, or its text where it has none."""
    said = f"{criterion_number(criterion)}; allowed: {criterion_limit(criterion)}." if has_number(criterion) else criterion["text"]
    return f"{criterion_state(criterion)}: {criterion['question']} {said[:1].upper()}{said[1:]}"


def at_least(criterion: Mapping[str, Any]) -> bool:
    """Whether more is better: what is kept. Of all else there may be too much."""
    return str(criterion["name"]).startswith("kept_")


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


def _amount(name: str, value: float) -> str:
    value = round(value, 3) + 0.0  # + 0: no minus before a zero
    sign = "+" if name in MORE | NATS | AUC else "-"
    return f"{value:{sign}.2f}" if name in NATS | AUC else f"{round(value, 2) + 0.0:{sign}.0%}"
