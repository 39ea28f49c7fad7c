"""Make a model forget: read a recipe, check all of it, train an adapter, evaluate before and after, write it all down."""

import argparse
import sys
from typing import TypeVar

from peft_unlearn.cli import options as fields
from peft_unlearn.cli import processes, screen
from peft_unlearn.util import launched
from peft_unlearn.workflows import TrainRequest, TrainResult, Unfinished, train
from peft_unlearn.workflows.checks import checked_recipe

R = TypeVar("R", bound=TrainRequest)
OPTION = {"train": "[--processes N] ", "plan": "[--timed] "}  # behind the recipe, among its keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser, "train")
    parser.epilog = (
        "`peft-unlearn keys` prints every key. `--processes N` behind the recipe trains with N processes of this machine, one for each GPU; on "
        "several machines use accelerate launch -m peft_unlearn train RECIPE.yaml"
    )


def add_recipe(parser: argparse.ArgumentParser, command: str) -> None:
    """The recipe that `train` and `plan` read."""
    parser.usage = f"peft-unlearn {command} RECIPE.yaml {OPTION.get(command, '')}[--key value ...]"
    fields.add(parser, TrainRequest, "recipe")
    parser.add_argument("overrides", nargs=argparse.REMAINDER, metavar="--key value", help="keys that differ from the recipe's")


def read_recipe(options: argparse.Namespace, request: type[R]) -> R:
    from peft_unlearn.config import reading

    return request(options.recipe, reading.parse_overrides(options.overrides))


def main(options: argparse.Namespace) -> None:
    number, options.overrides = processes.taken(options.overrides)
    request = read_recipe(options, TrainRequest)
    if number > 1:
        values = checked_recipe(request)  # what is wrong with the recipe is said here, once
        processes.check(number, on_cpu=bool(values.get("use_cpu")))
        processes.launch(number, sys.executable, "-m", "peft_unlearn", "train", options.recipe, *options.overrides)
        return
    try:
        show(train(request))
    except Unfinished as stop:
        show(stop.result)
        raise
    except RuntimeError as error:
        if not launched.is_loss(error):
            raise
        print(launched.loss(error), file=sys.stderr)
        raise SystemExit(1) from error
    finally:
        if "torch" in sys.modules:  # not where the recipe was refused
            import torch

            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()  # or gloo's threads may abort the process as it exits


def show(result: TrainResult) -> None:
    """The table of a run, where its files are, and the conclusion."""
    from peft_unlearn import report

    if not result.report:  # another process has it
        return
    console = screen.console()
    console.print(report.table(result.report, console.width))
    console.print(f"Adapter, card, recipe and report are in {result.output}")
    if result.pushed is not None:
        console.print(f"Uploaded to {result.pushed.address}", "(private)" if result.pushed.private else "(public)")
    console.print(report.conclusion(result.report, "report.html"))
