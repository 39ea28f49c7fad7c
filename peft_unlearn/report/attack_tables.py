"""The attacks of a report as tables: in the terminal and on the page."""

from collections.abc import Mapping
from html import escape
from typing import Any

from rich import box
from rich.table import Column, Table
from rich.text import Text

from peft_unlearn.util.numbers import show

HELD = {True: "held", False: "broken", None: "–"}
COLUMNS = ("attacked", "without", "never-seen", "back", "line", "held")


def table(attacks: Mapping[str, Any]) -> Table:
    """What each attack brought back: a row for each number that has a line, all of an attack without one; what was not made with its reason."""
    columns = [Column(head, justify="right", no_wrap=True) for head in COLUMNS]
    grid = Table(Column("attack"), *columns, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name, attack in attacks.items():
        grid.add_row(Text(name, "bold"), "", "", "", "", "", HELD[attack["held"]])
        if attack["reason"] is not None:
            grid.add_row(Text(f" {attack['reason']}"))
        judged = [finding for finding in attack["findings"] if finding["limit"] is not None]
        for finding in judged or attack["findings"]:
            grid.add_row(Text(f" {_label(finding)}"), *_cells(finding))
        grid.add_section()
    return grid


def page(attacks: Mapping[str, Any]) -> str:
    """The same as HTML."""
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("attack", *COLUMNS))
    parts = []
    for name, attack in attacks.items():
        depth = "long form" if attack["full"] else "short form"
        said = escape(attack["reason"]) if attack["reason"] is not None else f"{depth}, {attack['seconds']:g} s"
        rows = "".join(
            f'<tr><th scope="row">{escape(_label(finding))}</th>'
            + "".join(f'<td class="n" data-k="{head}">{escape(cell)}</td>' for head, cell in zip(COLUMNS, _cells(finding), strict=True))
            + "</tr>"
            for finding in attack["findings"]
        )
        grid = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
        verdict = f"<b>{HELD[attack['held']]}</b>"
        parts.append(f"<h3>{escape(name)}: {verdict}</h3><p class='small'>{escape(attack['title'])} ({said}).</p>{grid}")
    return (
        "<p class='small'>What was tried to bring it back. <b>Back</b> is the share of what was forgotten that the attack shows, beyond "
        "what it shows of never-seen; <b>broken</b> is a line that is crossed, by more than the rows' noise.</p>" + "".join(parts)
    )


def _label(finding: Mapping[str, Any]) -> str:
    return f"{finding['what']}, {finding['metric'].replace('_', ' ')}"


def _cells(finding: Mapping[str, Any]) -> list[str]:
    numbers = [show(finding[key]) if finding[key] is not None else "–" for key in ("mean", "after", "never_seen")]
    share = "–" if finding["recovered"] is None else f"{round(finding['recovered'], 2) + 0.0:.0%}"  # + 0: no "-0%"
    limit = "–" if finding["limit"] is None else f"{finding['limit']:g}"
    return [*numbers, share, limit, HELD[finding["held"]] if finding["limit"] is not None else ""]
