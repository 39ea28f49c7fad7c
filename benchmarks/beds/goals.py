"""What a run must show to be like a model that never saw the rows, and tables of runs beside it."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from beds.measuring import ASKED

Line = Mapping[str, Any]


# Which number, and whether that is near enough to the other's: of the retain set that is the model before, else the twin. A line that has no such
# number (a kind without questions in other words) is not asked, and a number that is not one is not enough.
GOALS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "target reached": ("reached", lambda own, other: own == other),
    "mean log p within 15 % of the twin's": ("log_p", lambda own, other: 1.15 * other <= own <= 0.85 * other),
    "Min-K AUC on fresh rows within .1": ("fresh_auc", lambda own, other: abs(own - other) <= 0.1),
    "extraction strength at most .05 above": ("forget: extraction_strength", lambda own, other: own <= other + 0.05),
    "ROUGE-L at most .05 above": ("forget: rouge_l", lambda own, other: own <= other + 0.05),
    "asked otherwise: extraction strength": (f"forget{ASKED}: extraction_strength", lambda own, other: own <= other + 0.05),
    "asked otherwise: ROUGE-L": (f"forget{ASKED}: rouge_l", lambda own, other: own <= other + 0.05),
    "retain p at least .97 of before": ("retain: probability", lambda own, other: own >= 0.97 * other),
    "retain ROUGE-L at least .97 of before": ("retain: rouge_l", lambda own, other: own >= 0.97 * other),
    "asked otherwise: retain p": (f"retain{ASKED}: probability", lambda own, other: own >= 0.97 * other),
    "asked otherwise: retain ROUGE-L": (f"retain{ASKED}: rouge_l", lambda own, other: own >= 0.97 * other),
    "empty or looping answers at most .03 above": ("forget: degenerate", lambda own, other: own <= other + 0.03),
    "existing words within 10 %": ("existing_words", lambda own, other: own >= 0.9 * other),
    "perplexity under the twin within 10 %": ("perplexity", lambda own, other: own <= 1.1 * other),
}

PAIRS = {  # column -> number
    "log p": "log_p",
    "ES": "forget: extraction_strength",
    "ROUGE-L": "forget: rouge_l",
    "otherwise": f"forget{ASKED}: rouge_l",
    "retain p": "retain: probability",
    "retain ROUGE-L": "retain: rouge_l",
    "degenerate": "forget: degenerate",
    "words": "existing_words",
    "perplexity": "perplexity",
}


def met(line: Line) -> dict[str, bool]:
    """The goals that can be told from a line, and whether it meets them."""
    numbers = {**line, "reached": [line["reached"], True]} if "reached" in line else line
    return {goal: enough(*_both(numbers[name])) for goal, (name, enough) in GOALS.items() if name in numbers}


def _both(value: Any) -> Sequence[float]:
    """A number and the other one."""
    return value["auc"] if isinstance(value, Mapping) else value


def table(lines: Sequence[Line], *, head: bool = True) -> str:
    """A row for each run, the other model's numbers in parentheses; and, with `head`, in what share of the runs each goal is met."""
    rows = [_row(line) for line in lines]
    if not head:
        return "\n".join(rows)
    columns = ["run", "reached", "steps", "s", "word", "AUC fresh", "AUC holdout", *PAIRS, "not met"]
    return "\n".join([_cells(columns), _cells(["---"] * len(columns)), *rows, "", *_shares(lines)])


def _cells(values: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, values)) + " |"


def _row(line: Line) -> str:
    run = line["run"]
    name = " ".join(
        [run["kind"], run["setting"], run["memory"], *([] if run["size"] == "medium" else [run["size"]]), *["NF4"] * run["nf4"]]
    )
    lost = [goal for goal, good in met(line).items() if not good]
    aucs = [_auc(line[f"{name}_auc"]) for name in ("fresh", "holdout")]
    pairs = [_pair(line.get(name)) for name in PAIRS.values()]
    started = [line.get(key, "") for key in ("reached", "steps", "seconds", "word")]
    return _cells([f"{name} {run['seed']}", *started, *aucs, *pairs, "; ".join(lost)])


def _pair(values: Sequence[float] | None) -> str:
    return "" if values is None else "{:.3g} ({:.3g})".format(*values)


def _auc(found: Mapping[str, Any]) -> str:
    return f"{_pair(found['auc'])} [{', '.join(f'{end:.2f}' for end in found['difference'])}]"


def _shares(lines: Sequence[Line]) -> list[str]:
    """Goals by groups of runs: kinds to build on and kinds to check on, what the run was given, and keys that were changed."""

    def group(line: Line) -> tuple[str, str, str]:
        keys = line["run"]["keys"]
        return json.dumps(keys) if keys else "", "checks" if line["checks_only"] else "builds", line["run"]["setting"]

    groups = {key: [met(line) for line in found] for key, found in groupby(sorted(lines, key=group), group)}
    rows = [_cells(["goal", *(" ".join(key).strip() for key in groups)]), _cells(["---"] * (1 + len(groups)))]
    for goal in GOALS:
        asked = [[found[goal] for found in of_group if goal in found] for of_group in groups.values()]
        rows.append(_cells([goal, *(f"{sum(good)} of {len(good)}" if good else "" for good in asked)]))
    return [*rows, _cells(["all", *(f"{sum(all(found.values()) for found in one)} of {len(one)}" for one in groups.values())])]
