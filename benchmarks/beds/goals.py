"""What a run must show to be like a model that never saw the rows, and tables of runs beside it."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from beds.measuring import ASKED

Line = Mapping[str, Any]


def _ratio(name: str) -> Callable[[Line], float]:
    return lambda line: line[name][0] / line[name][1]


def _above(name: str) -> Callable[[Line], float]:
    return lambda line: line[name][0] - line[name][1]


# What is measured, and whether that is enough. A line that has no such number (a kind without questions in other words) is not asked.
GOALS: dict[str, tuple[Callable[[Line], float], Callable[[float], bool]]] = {
    "target reached": (lambda line: line["reached"], bool),
    "mean log p within 15 % of the twin's": (_ratio("log_p"), lambda ratio: abs(ratio - 1) <= 0.15),
    "Min-K AUC on fresh rows within .1": (
        lambda line: line["fresh_auc"]["auc"][0] - line["fresh_auc"]["auc"][1],
        lambda gap: abs(gap) <= 0.1,
    ),
    "extraction strength at most .05 above": (_above("forget: extraction_strength"), lambda gap: gap <= 0.05),
    "ROUGE-L at most .05 above": (_above("forget: rouge_l"), lambda gap: gap <= 0.05),
    "asked otherwise: extraction strength": (_above(f"forget{ASKED}: extraction_strength"), lambda gap: gap <= 0.05),
    "asked otherwise: ROUGE-L": (_above(f"forget{ASKED}: rouge_l"), lambda gap: gap <= 0.05),
    "retain p at least .97 of before": (_ratio("retain: probability"), lambda kept: kept >= 0.97),
    "retain ROUGE-L at least .97 of before": (_ratio("retain: rouge_l"), lambda kept: kept >= 0.97),
    "asked otherwise: retain p": (_ratio(f"retain{ASKED}: probability"), lambda kept: kept >= 0.97),
    "asked otherwise: retain ROUGE-L": (_ratio(f"retain{ASKED}: rouge_l"), lambda kept: kept >= 0.97),
    "empty or looping answers at most .03 above": (_above("forget: degenerate"), lambda gap: gap <= 0.03),
    "existing words within 10 %": (_ratio("existing_words"), lambda ratio: ratio >= 0.9),
    "perplexity under the twin within 10 %": (_ratio("perplexity"), lambda ratio: ratio <= 1.1),
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
    found = {}
    for goal, (measure, enough) in GOALS.items():
        try:
            found[goal] = bool(enough(measure(line)))
        except KeyError:
            continue
    return found


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
