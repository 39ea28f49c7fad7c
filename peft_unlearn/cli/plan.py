"""Say what GPU memory a recipe's run would take, which cards hold it, and which settings would save how much. No weights are loaded."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from peft_unlearn.cli import options as fields
from peft_unlearn.cli import screen, train
from peft_unlearn.workflows import PlanRequest, plan

if TYPE_CHECKING:
    from rich.table import Table

    from peft_unlearn.planning import Change, Memory
    from peft_unlearn.workflows import Times


TIMED = "--timed"  # also behind the recipe, where all else is a key
SOME = (100, 200, 400)  # steps of a run whose end nobody knows before


def add_arguments(parser: argparse.ArgumentParser) -> None:
    train.add_recipe(parser, "plan")
    fields.add(parser, PlanRequest, "timed")
    parser.epilog = "The recipe is the one that `train` takes; its data need not be there, its model's config must be."


def main(options: argparse.Namespace) -> None:
    timed = "timed" in options or TIMED in options.overrides
    options.overrides = [word for word in options.overrides if word != TIMED]
    result = plan(replace(train.read_recipe(options, PlanRequest), timed=timed))

    console = screen.console(highlight=False)
    console.print(_items(result.values["model_name_or_path"], result.memory))
    if result.values.get("use_cpu"):
        console.print("The recipe trains on the CPU; this is what a GPU would need.")
    if result.memory.too_small:
        console.print(_changes(result.memory, result.changes))
    if result.times is not None:
        console.print(_times(result.times))


def _times(times: "Times") -> "Table":
    """The parts of a run's time, and the whole of it."""
    from rich.table import Table

    grid = Table("time on this machine", "minutes", title_justify="left")
    grid.columns[1].justify = "right"
    grid.add_row("until the first step", f"{times.prepare / 60:.1f}")
    grid.add_row(f"{times.evaluations} evaluations", f"{times.evaluations * times.evaluate / 60:.1f}")
    grid.add_row(f"100 steps of {times.step:.2f} s, {times.padding:.0%} of their tokens padding", f"{100 * times.step / 60:.1f}")
    if times.every:
        grid.add_row(f"a check of {times.check:.1f} s every {times.every} steps, in 100", f"{100 / times.every * times.check / 60:.1f}")
    grid.add_section()
    for steps in SOME if times.steps is None else [times.steps]:
        grid.add_row(f"a run of {steps} steps", f"{times.run(steps) / 60:.1f}")
    if times.steps is None:
        grid.caption = "It ends by its targets. In our studies that took 60 to 700 steps."
    return grid


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
