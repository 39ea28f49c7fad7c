"""Requests to forget that keep coming: add one, compose or revoke them, score them all, and print the record."""

import argparse

from peft_unlearn.cli import options as fields
from peft_unlearn.cli import screen, train
from peft_unlearn.workflows import AddRequest, ComposeRequest, LedgerRequest, RevokeRequest, ScoreResult, ledger


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "peft-unlearn ledger add|compose|revoke|score|record FOLDER ..."
    actions = parser.add_subparsers(required=True, metavar="action", dest="action")
    add = actions.add_parser("add", help=AddRequest.__doc__, description=AddRequest.__doc__, allow_abbrev=False)
    for name in ("folder", "name"):
        add.add_argument(name, help=next(f.metadata["help"] for f in AddRequest.__dataclass_fields__.values() if f.name == name))
    train.add_recipe(add, "ledger add FOLDER NAME")
    for action, request in (("compose", ComposeRequest), ("revoke", RevokeRequest), ("score", LedgerRequest), ("record", LedgerRequest)):
        made = actions.add_parser(action, help=TOLD[action], description=TOLD[action], allow_abbrev=False)
        fields.add(made, request, "folder")
        if request is ComposeRequest:
            made.add_argument("--output", required=True, metavar="DIR", help="a new folder for the one adapter")
            fields.add(made, request, "rank", type=int, metavar="R")
            fields.add(made, request, "energy", type=float, metavar="SHARE")
        if request is RevokeRequest:
            fields.add(made, request, "name")


TOLD = {
    "compose": "Make one LoRA of your own and of all requests that stand: their exact sum, or the nearest one of a smaller rank.",
    "revoke": "Take a request's adapter out again.",
    "score": "Score the rows of every request again, as all that stand are active.",
    "record": "Print what was asked, when, by which rows (hashes), how it was judged and with which versions, as Markdown.",
}


def main(options: argparse.Namespace) -> None:
    console = screen.console()
    if options.action == "add":
        from peft_unlearn.config import reading

        overrides = reading.parse_overrides(options.overrides)
        train.show(ledger.add(AddRequest(options.recipe, overrides, folder=options.folder, name=options.name)))
    elif options.action == "compose":
        from peft_unlearn.cli import combine

        combine.show(ledger.compose(fields.made(options, ComposeRequest)))
    elif options.action == "revoke":
        entry = ledger.revoke(fields.made(options, RevokeRequest))
        console.print(f"{entry['name']} is revoked: compose again to have an adapter without it.")
    elif options.action == "score":
        _show_scores(ledger.score(fields.made(options, LedgerRequest)))
    else:
        print(ledger.record(fields.made(options, LedgerRequest)), end="")


def _show_scores(result: ScoreResult) -> None:
    from rich.table import Table

    from peft_unlearn.util.numbers import show

    console = screen.console()
    metrics = list(dict.fromkeys(metric for views in result.scores.values() for found in views.values() for metric in found))
    grid = Table("request", *(f"{metric.replace('_', ' ')}, {view}" for metric in metrics for view in ("before", "after")))
    for name, views in result.scores.items():
        cells = (views.get(view, {}).get(metric) for metric in metrics for view in ("before", "after"))
        grid.add_row(name, *("-" if value is None else show(value) for value in cells))
    console.print(grid)
    if result.retain_kl is not None:
        console.print(f"Divergence of the retain set from your own model: {show(result.retain_kl)}")
