"""Print every key of a recipe and every part that one can name, with what it does."""

import argparse
from collections.abc import Iterator
from typing import NamedTuple


class Entry(NamedTuple):
    """A key or a part: its name, what stands beside it, and its help."""

    name: str
    beside: str
    help: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        nargs="*",
        help="a key or part, or some of its name; or all of: keys, methods, losses, combiners, metrics, attacks",
    )


def main(options: argparse.Namespace) -> None:
    from rich.padding import Padding

    from peft_unlearn.cli import screen
    from peft_unlearn.util.errors import UserError

    console = screen.console(highlight=False)
    groups = {title: list(entries) for title, entries in _groups()}
    exact = {name for name in options.name for entries in groups.values() if any(entry.name == name for entry in entries)}
    shown = {title: [entry for entry in entries if _asked(title, entry, options.name, exact)] for title, entries in groups.items()}
    if not any(shown.values()):
        raise UserError(f"{options.name[0]}: no key and no part has that in its name; `peft-unlearn keys` prints them all.")
    for title, entries in shown.items():
        if entries:
            console.print(f"\n{title}", style="bold underline")
        for name, beside, text in entries:
            fits = len(name) + len(beside) + 4 <= console.width
            console.print(f"  {name}  {beside}".rstrip() if fits else f"  {name}", soft_wrap=True)
            for line in (text,) if fits else (beside, text):
                console.print(Padding(line, (0, 0, 0, 6), expand=False))
    if any(title.startswith("keys") and entries for title, entries in shown.items()):
        console.print("\nA key without a value takes that of its method. `peft-unlearn keys methods` prints them.")


def _asked(title: str, entry: Entry, names: list[str], exact: set[str]) -> bool:
    """Whether an entry is shown: by its group, by its name, or, where a word is nobody's name, by a part of it."""
    return not names or any(
        title.split(":")[0] == word or entry.name == word or (word not in exact and word in entry.name) for word in names
    )


def _groups() -> Iterator[tuple[str, Iterator[Entry]]]:
    """Titles, and what stands under them: our keys first."""
    from peft_unlearn.config import keys
    from peft_unlearn.config.methods import METHODS
    from peft_unlearn.util.registry import ATTACKS, COMBINERS, LOSSES, METRICS

    for title, found in keys.groups().items():
        yield (
            f"keys: {title}",
            (Entry(k.name, "" if k.default is None else f"= {k.default}", _with_choices(k.help, k.choices)) for k in found),
        )
    yield (
        "methods",
        (
            Entry(name, ", ".join(f"{key} {value}" for key, value in one.settings.items()), _with_papers(one.help, one.papers))
            for name, one in METHODS.items()
        ),
    )
    for title, registry in (("losses", LOSSES), ("combiners", COMBINERS), ("metrics", METRICS), ("attacks", ATTACKS)):
        yield (
            title,
            (
                Entry(part.name, ", ".join(f"{key}: {p}" for key, p in part.parameters.items()), _with_papers(part.help, part.papers))
                for part in registry.values()
            ),
        )


def _with_papers(help_text: str, papers: tuple[str, ...]) -> str:
    said = help_text.rstrip(".") + "."
    return f"{said} arXiv {', '.join(papers)}." if papers else said


def _with_choices(help_text: str, choices: tuple[str, ...]) -> str:
    """The help, and after it the choices that it does not name."""
    named = all(choice in help_text for choice in choices)
    return help_text if named else f"{help_text} One of: {', '.join(choices)}."
