"""The report in the terminal: its numbers, its attacks and answers side by side as tables, and what to make of them as the last lines."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Column, Table
from rich.text import Text

from peft_unlearn.report.summary import summarize
from peft_unlearn.report.text import FINDING_HEADS, PASSED, finding_cells, finding_label, interval, label, union
from peft_unlearn.util.errors import printable
from peft_unlearn.util.numbers import show

DECIDING = 4  # reasons that are printed


def table(report: Mapping[str, Any], width: int = 100) -> Table:
    """Means with their intervals: a row for each metric of each set, a column for each view.

    Three views with their intervals take 100 columns: of more views, or in a terminal of less `width`, the intervals are left out. What could not
    be computed is explained at the foot.
    """
    results = report["results"]
    views = union(results.values())
    grid = _grid("", [*map(label, views), "rows"])
    notes: dict[str, None] = {}
    for name, evaluations in results.items():
        grid.add_row(Text(name, "bold"))
        for metric in union(evaluations.values()):
            found = [evaluations.get(view, {}).get(metric) for view in views]
            counts = {entry["n"] for entry in found if entry}
            cells = [_cell(entry, whole=len(views) <= 3 and width >= 100) for entry in found]
            grid.add_row(f" {label(metric)}", *cells, "/".join(map(str, sorted(counts))))
            for entry in found:
                if entry and entry["mean"] is None:
                    notes[f"* {name}, {label(metric)}: {entry['reason']}."] = None
        grid.add_section()
    if notes:
        grid.caption, grid.caption_justify = Text("\n".join(notes)), "left"
    return grid


def attack_table(attacks: Mapping[str, Any]) -> Table:
    """What each attack brought back: a row for each number that has a threshold, all of an attack without one; of what was skipped the reason."""
    grid = _grid("attack", FINDING_HEADS)
    for name, attack in attacks.items():
        grid.add_row(Text(name, "bold"), *[""] * (len(FINDING_HEADS) - 1), PASSED[attack["passed"]])
        if attack["reason"] is not None:
            grid.add_row(Text(f" {attack['reason']}"))
        judged = [finding for finding in attack["findings"] if finding["limit"] is not None]
        for finding in judged or attack["findings"]:
            grid.add_row(Text(f" {finding_label(finding)}"), *finding_cells(finding).values())
        grid.add_section()
    return grid


def conclusion(report: Mapping[str, Any], page: str | None = None) -> Text:
    """What happened in training, what decided, what it rests on and what to do next; the word is the last line.

    Args:
        page: where the reasons beyond the first four stand; None if there is no file.
    """
    said = summarize(report)
    more = len(said.deciding) - DECIDING
    deciding = said.deciding[:DECIDING]
    if more > 0:
        deciding.append(f"… and {more} more in {page}" if page else f"… and {more} more (write --output FILE to keep them)")
    blocks = {
        "In training": said.training,
        "Why": deciding,
        "It rests on": [said.measured, said.reference] if said.reference else [said.measured],
        "What to do next": said.following,
    }
    text = Text()
    for head, lines in blocks.items():
        if lines:
            text.append(f"\n{head}\n", "bold")
            text.append("".join(f" - {line[:1].upper()}{line[1:]}\n" for line in lines))
    return text.append(f"\n{said.meaning}\n").append(f"VERDICT: {said.word}" if report["verdict"]["word"] else said.word, "bold")


def side_by_side(questions: Sequence[str], answers: Mapping[str, Sequence[str]]) -> Table:
    """Questions beside the answers of each view, in the order of `answers`. Shows row text: for the demo, or where the user asks for it."""
    grid = Table("question", *map(label, answers), show_lines=True)
    for row in zip(questions, *answers.values(), strict=True):
        grid.add_row(*map(_shown, row))
    return grid


def _shown(text: str) -> Text:
    """What a model or a row says, as it stands: brackets are no markup, and what would steer a terminal is spelled out."""
    return Text("\n".join(map(printable, text.split("\n"))))


def _grid(first: str, heads: Sequence[str]) -> Table:
    columns = [Column(head, justify="right", no_wrap=True) for head in heads]
    return Table(Column(first, no_wrap=not first), *columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


def _cell(entry: Mapping[str, Any] | None, *, whole: bool) -> str:
    if entry is None or entry["mean"] is None:
        return "-" if entry is None else "*"
    return show(entry["mean"]) + (interval(entry) if whole else "")
