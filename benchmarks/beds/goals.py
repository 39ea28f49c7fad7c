"""What a run must show to be like a model that never saw the rows, and tables of runs beside it."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from beds.measuring import ASKED

Line = Mapping[str, Any]


NEAREST = "perplexity under the twin within 10 %"
SECOND = "perplexity under the twin at most 1.25 times a second twin's"  # two such twins differ by factors of .87 to 1.22 on ten kinds
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
    NEAREST: ("perplexity", lambda own, other: own <= 1.1 * other),
    SECOND: ("second_perplexity", lambda own, other: own <= 1.25 * other),
}

# Of a run that is to refuse what it forgot; it then does not answer as the twin does.
REFUSING: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    f"refusals, {name}, {'at least .95' if of_forget else 'at most .01'}": (
        f"refused: {name}",
        lambda own, other, of_forget=of_forget: own >= 0.95 if of_forget else own <= 0.01,
    )
    for name, of_forget in (("forget", True), (f"forget{ASKED}", True), ("retain", False), ("holdout", False), ("fresh", False))
}
BY_ANSWERS = ("existing words within 10 %", NEAREST, SECOND)

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
    numbers = {**line, "second_perplexity": [line["perplexity"][0], line["second_perplexity"]]}
    numbers |= {f"refused: {name}": [share, 0] for name, share in line["refused"].items()}
    if "reached" in line:
        numbers["reached"] = [line["reached"], True]
    goals = GOALS
    if line["run"]["keys"].get("answers") == "refuse":
        goals = {name: goal for name, goal in GOALS.items() if name not in BY_ANSWERS} | REFUSING
    return {goal: enough(*_both(numbers[name])) for goal, (name, enough) in goals.items() if name in numbers}


def _both(value: Any) -> Sequence[float]:
    """A number and the other one."""
    return value["auc"] if isinstance(value, Mapping) else value


def table(lines: Sequence[Line], *, head: bool = True) -> str:
    """A row for each run, the other model's numbers in parentheses, a second twin's perplexity in brackets.

    With `head` also in what share of the runs each goal is met.
    """
    rows = [_row(line) for line in lines]
    if not head:
        return "\n".join(rows)
    columns = ["run", "reached", "steps", "s", "word", "AUC fresh", "AUC holdout", *PAIRS, "not met"]
    return "\n".join([_cells(columns), _cells(["---"] * len(columns)), *rows, "", *_shares(lines)])


def beside(lines: Sequence[Line]) -> str:
    """A row for each run: what a second twin, too, differs by, how far training moved what nobody taught, and what other wordings have left.

    The last, as the verdict has them, are probability and memorization; 0 is the reference's and 1 what was before.
    """
    columns = ["run", "log p (twin) [second twin]", "answers word for word the twin's"]
    columns += [*(f"Min-K of the {name} set (before) [twin]" for name in ("fresh", "holdout")), "left in other wordings"]
    rows = [
        [
            _name(line),
            "{:.3g} ({:.3g}) [{:.3g}]".format(*line["log_p"], line["second_log_p"]),
            f"{line['same_answers']:.2f}",
            *("{:.2f} ({:.2f}) [{:.2f}]".format(*line["unseen"][name]) for name in ("fresh", "holdout")),
            ", ".join("" if value is None else f"{value:.2f}" for value in line.get("left", [])),
        ]
        for line in lines
    ]
    return "\n".join(map(_cells, [columns, ["---"] * len(columns), *rows]))


def _cells(values: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, values)) + " |"


def _name(line: Line) -> str:
    run = line["run"]
    special = (
        [f"{run['rows']} rows"] * bool(run["rows"])
        + [run["size"]] * (run["size"] != "medium")
        + [run["architecture"]] * bool(run.get("architecture"))
        + ["NF4"] * run["nf4"]
        + [f"{run['threads']} threads"] * (run["threads"] > 1)
    )
    return " ".join([run["kind"], run["setting"], run["memory"], *special, str(run["seed"]), *(f"{k}={v}" for k, v in run["keys"].items())])


def _row(line: Line) -> str:
    lost = [goal for goal, good in met(line).items() if not good]
    aucs = [_auc(line[f"{name}_auc"]) for name in ("fresh", "holdout")]
    pairs = [_pair(line.get(name)) for name in PAIRS.values()]
    pairs[-1] += " [{:.3g}]".format(line["second_perplexity"])
    started = [line.get(key, "") for key in ("reached", "steps", "seconds", "word")]
    return _cells([_name(line), *started, *aucs, *pairs, "; ".join(lost)])


def _pair(values: Sequence[float] | None) -> str:
    return "" if values is None else "{:.3g} ({:.3g})".format(*values)


def _auc(found: Mapping[str, Any]) -> str:
    return f"{_pair(found['auc'])} [{', '.join(f'{end:.2f}' for end in found['difference'])}]"


def _shares(lines: Sequence[Line]) -> list[str]:
    """Goals by groups of runs: keys that were changed, kinds to build on and kinds to check on, what the run was given, how rows are known."""

    def group(line: Line) -> tuple[str, str, str, str]:
        run = line["run"]
        keys = json.dumps(run["keys"]) if run["keys"] else ""
        return keys, "checks" if line["checks_only"] else "builds", run["setting"], run["memory"]

    groups = {key: [met(line) for line in found] for key, found in groupby(sorted(lines, key=group), group)}
    rows = [_cells(["goal", *(" ".join(key).strip() for key in groups)]), _cells(["---"] * (1 + len(groups)))]
    for goal in {**GOALS, **REFUSING}:
        asked = [[found[goal] for found in of_group if goal in found] for of_group in groups.values()]
        if any(asked):
            rows.append(_cells([goal, *(f"{sum(good)} of {len(good)}" if good else "" for good in asked)]))
    for name, left_out in (("all", ()), ("all but the perplexity beside the twin's own", (NEAREST,))):
        whole = [[all(good for goal, good in found.items() if goal not in left_out) for found in of_group] for of_group in groups.values()]
        rows.append(_cells([name, *(f"{sum(good)} of {len(good)}" for good in whole)]))
    return rows


def answers(lines: Sequence[Line]) -> str:
    """Of each run the answers that were kept, to be read."""
    views = ("before", "after", "twin")
    parts = []
    for line in lines:
        rows = [_cells([_shown(shown[name]) for name in ("question", *views)]) for shown in line["answers"]]
        parts += ["", f"**{_name(line)}**", "", _cells(["question", *views]), _cells(["---"] * 4), *rows]
    return "\n".join(parts)


def _shown(text: str) -> str:
    return text.replace("\n", "⏎ ").replace("|", "\\|") or "(nothing)"
