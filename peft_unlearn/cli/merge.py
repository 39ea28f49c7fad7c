"""Merge a forgetting adapter into its base, shard by shard, measure what survives, and evaluate what was written."""

import argparse
import dataclasses
import shlex

from peft_unlearn.cli import options as fields
from peft_unlearn.cli import screen
from peft_unlearn.workflows import MergeRequest, MergeResult, merge
from peft_unlearn.workflows.command import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    fields.add(parser, MergeRequest, "adapter")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder for the merged model")
    for name in ("base", "below", "dtype", "quantize", "onto", "force"):
        fields.add(parser, MergeRequest, name)
    fields.add(parser, MergeRequest, "evaluate", help="do not evaluate the merged folder")


def main(options: argparse.Namespace) -> None:
    result = merge(fields.made(options, MergeRequest))

    from peft_unlearn import merging, report
    from peft_unlearn.merging import survival

    console = screen.console()
    console.print(survival.table(result.survival))
    console.print(f"Merged into {result.folder}; every weight's numbers are in {merging.REPORT} there.")
    alpha = survival.median_alpha(result.survival)
    if alpha is not None and alpha < survival.SURVIVES:
        console.print(
            f"Warning: the median α is {alpha:.3f}, so much of the forgetting may be rounded away; merge to more bits, or train longer."
        )
    if result.report is not None:
        console.print(report.table(result.report, console.width))
        console.print(report.conclusion(result.report, "report.html"))
    if result.not_evaluated is not None:
        console.print(f"Not evaluated: {result.not_evaluated} {_by_hand(result)}", soft_wrap=True)


def _by_hand(result: MergeResult) -> str:
    """How to evaluate the merged folder where its sets were not there."""
    if result.evaluation is None:
        return f"Give them: peft-unlearn evaluate {shlex.quote(str(result.folder))} --forget FILE --retain FILE"
    return f"The command for it is {command('evaluate', dataclasses.replace(result.evaluation, output=result.folder / 'report.json'))}"
