"""Print every key of a recipe, with its default and what it does."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", nargs="*", help="only keys whose name contains one of these")


def main(options: argparse.Namespace) -> None:
    from rich import print as show
    from rich.table import Column, Table

    from peft_unlearn.config import recipe
    from peft_unlearn.util.errors import UserError

    grid = Table(Column("key", no_wrap=True), "default", "what it does")
    for key in recipe.keys().values():
        if not options.key or any(part in key.name for part in options.key):
            grid.add_row(key.name, "" if key.default is None else str(key.default), key.help)
    if not grid.rows:
        raise UserError(f"{options.key[0]}: no key has that in its name; `peft-unlearn keys` prints them all.")
    show(grid)
    show("A key without a default takes the value of its method; see peft_unlearn/methods.py.")
