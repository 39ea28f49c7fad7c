"""Make one LoRA of your own and a forgetting adapter: their exact sum, or the nearest one of a smaller rank."""

import argparse
import shlex

from peft_unlearn.cli import options as fields
from peft_unlearn.cli import screen
from peft_unlearn.workflows import CombineRequest, CombineResult, combine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    fields.add(parser, CombineRequest, "adapters", nargs="+", metavar="ADAPTER")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder for the one adapter")
    fields.add(parser, CombineRequest, "rank", type=int, metavar="R")
    fields.add(parser, CombineRequest, "energy", type=float, metavar="SHARE")


def main(options: argparse.Namespace) -> None:
    show(combine(fields.made(options, CombineRequest)))


def show(result: CombineResult) -> None:
    """Where the one adapter is, and how much of the sum it keeps."""
    from peft_unlearn.merging import combining

    console = screen.console()
    console.print(f"One LoRA of rank {result.rank} is in {result.folder}; every module's numbers are in {combining.REPORT} there.")
    share = combining.share(result.energy)
    if share == 1:
        console.print("It is the sum of the adapters, exactly.")
        return
    module, least = min(result.energy.items(), key=lambda pair: pair[1].share)
    console.print(f"It keeps {share:.2%} of the energy of their sum, and at least {least.share:.2%} of a module's ({module}).")
    folder = shlex.quote(str(result.folder))
    console.print(
        f"The report of the adapters is not its own; measure it: peft-unlearn evaluate {folder} --output {folder}/report.json",
        soft_wrap=True,
    )
