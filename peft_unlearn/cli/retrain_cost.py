"""Say what training your LoRA again without the rows would take, from timed steps, beside what forgetting them took."""

import argparse

from peft_unlearn.cli import options as fields
from peft_unlearn.cli import screen, train
from peft_unlearn.workflows import RetrainCostRequest, retrain_cost


def add_arguments(parser: argparse.ArgumentParser) -> None:
    fields.add(parser, RetrainCostRequest, "train", metavar="SET")
    fields.add(parser, RetrainCostRequest, "epochs", type=float, metavar="N")
    fields.add(parser, RetrainCostRequest, "batch", type=int, metavar="N")
    train.add_recipe(parser, "retrain-cost [--train SET] [--epochs N] [--batch N]")


def main(options: argparse.Namespace) -> None:
    from peft_unlearn.config import reading

    asked = {name: getattr(options, name) for name in ("train", "epochs", "batch") if name in options}
    found = retrain_cost(RetrainCostRequest(options.recipe, reading.parse_overrides(options.overrides), **asked))

    from rich.table import Table

    grid = Table("", "rows", "tokens", "steps", "minutes")
    tokens = found.tokens * found.steps * asked.get("batch", RetrainCostRequest.batch) / found.rows
    grid.add_row("training again without them", f"{found.rows}", f"{tokens:.0f}", f"{found.steps}", f"{found.seconds / 60:.1f}")
    if found.forgetting is not None:
        steps, seconds = found.forgetting
        grid.add_row("forgetting them, as it was", "", "", f"{steps}", f"{seconds / 60:.1f}")
    console = screen.console()
    console.print(grid)
    console.print(f"{found.left_out} rows of the training set are to be forgotten; a step takes {found.seconds_a_step:.2f} s here.")
    if found.left_out == 0:
        console.print("None of the rows to forget stands there as it is; take out what says the same before you train again.")
    if found.forgetting is None:
        console.print("What forgetting takes is told here once the recipe has been trained.")
