"""Say what GPU memory a recipe's run would take, which cards hold it, and which settings would save how much. No weights are loaded."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from peft_unlearn.cli import screen, train
from peft_unlearn.workflows import PlanRequest, plan

if TYPE_CHECKING:
    from rich.table import Table

    from peft_unlearn.planning import Change, Memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    train.add_recipe(parser, "plan")
    parser.epilog = "The recipe is the one that `train` takes; its data need not be there, its model's config must be."


def main(options: argparse.Namespace) -> None:
    result = plan(train.read_recipe(options, PlanRequest))

    console = screen.console(highlight=False)
    console.print(_items(result.values["model_name_or_path"], result.memory))
    if result.values.get("use_cpu"):
        console.print("The recipe trains on the CPU; this is what a GPU would need.")
    if result.memory.too_small:
        console.print(_changes(result.memory, result.changes))


def _items(model: str, memory: "Memory") -> "Table":
    """The parts of the peak, what a card needs beyond it, and which hold it."""
    from rich.table import Table

    from peft_unlearn.planning import CARDS, CONTEXT, FRAGMENTATION, GB

    grid = Table("memory of the GPU", "GB", "share", title=f"{model}, most in {memory.phase}", title_justify="left")
    grid.columns[1].justify = grid.columns[2].justify = "right"
    for item, size in sorted(memory.items.items(), key=lambda pair: -pair[1]):
        grid.add_row(item, f"{size / GB:.2f}", f"{size / memory.peak:.0%}")
    grid.add_section()
    grid.add_row("peak that torch allocates", f"{memory.peak / GB:.2f}", "100%")
    grid.add_row(f"reserve: CUDA {CONTEXT / GB:g} GB, fragmentation {FRAGMENTATION:.0%}", f"{(memory.needed - memory.peak) / GB:.2f}", "")
    grid.add_row("needed", f"{memory.needed / GB:.2f}", "")
    grid.add_section()
    for card in CARDS:
        grid.add_row(f"a card of {card} GB", "does not hold it" if card in memory.too_small else "holds it", "")
    return grid


def _changes(memory: "Memory", changes: "Sequence[Change]") -> "Table":
    """What each change of settings saves, and which cards hold the run then."""
    from rich.table import Table

    from peft_unlearn.planning import CARDS, GB

    grid = Table("what would save memory, alone", "saves GB", "needed GB", "held by", title_justify="left")
    grid.columns[1].justify = grid.columns[2].justify = "right"
    for change in changes:
        held = [f"{card}" for card in CARDS if card not in change.memory.too_small]
        grid.add_row(
            "all of these together"
            if change.together
            else " ".join(f"--{key} {str(value).lower()}" for key, value in change.settings.items()),
            f"{(memory.peak - change.memory.peak) / GB:.2f}",
            f"{change.memory.needed / GB:.2f}",
            f"{', '.join(held)} GB" if held else "none of them",
        )
    return grid
