"""Print every key of a recipe and every part that one can name, with what it does."""

import argparse
from collections.abc import Iterator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="*", help="only what has one of these in its name, or all of: methods, losses, combiners, metrics, attacks"
    )


def main(options: argparse.Namespace) -> None:
    from rich import print as show
    from rich.table import Column, Table
    from rich.text import Text

    from peft_unlearn.util.errors import UserError

    found = False
    for title, columns, rows in _tables():
        asked = [row for row in rows if not options.name or any(part == title or part in row[0] for part in options.name)]
        if asked:
            found = True
            grid = Table(Column(columns[0], no_wrap=True), *columns[1:], title=title, title_justify="left")
            for row in asked:
                grid.add_row(*map(Text, row))  # as it stands: a help may hold brackets
            show(grid)
            if title == "keys":
                show("A key without a default takes the value of its method.")
    if not found:
        raise UserError(f"{options.name[0]}: no key and no part has that in its name; `peft-unlearn keys` prints them all.")


def _tables() -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Title, columns and rows of each table; the first cell of a row is the name."""
    from peft_unlearn.config.keys import keys
    from peft_unlearn.config.methods import METHODS
    from peft_unlearn.util.registry import ATTACKS, COMBINERS, LOSSES, METRICS

    columns: tuple[str, ...] = ("key", "default", "what it does")
    yield (
        "keys",
        columns,
        [(k.name, "" if k.default is None else str(k.default), _with_choices(k.help, k.choices)) for k in keys().values()],
    )
    columns = ("method", "settings", "what it is", "papers (arXiv)")
    yield (
        "methods",
        columns,
        [
            (name, "\n".join(f"{key}: {value}" for key, value in method.settings.items()), method.help, ", ".join(method.papers))
            for name, method in METHODS.items()
        ],
    )
    columns = ("name", "parameters", "what it is", "papers (arXiv)")
    for title, registry in (("losses", LOSSES), ("combiners", COMBINERS), ("metrics", METRICS), ("attacks", ATTACKS)):
        yield (
            title,
            columns,
            [
                (part.name, "\n".join(f"{key}: {p}" for key, p in part.parameters.items()), part.help, ", ".join(part.papers))
                for part in registry.values()
            ],
        )


def _with_choices(help_text: str, choices: tuple[str, ...]) -> str:
    """The help, and after it the choices that it does not name."""
    named = all(choice in help_text for choice in choices)
    return help_text if named else f"{help_text} One of: {', '.join(choices)}."
