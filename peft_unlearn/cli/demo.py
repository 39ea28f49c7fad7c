"""Fictional people, a small model that memorized them, and three methods that make it forget some."""

import argparse
import os

from peft_unlearn.cli import options as fields
from peft_unlearn.cli import screen
from peft_unlearn.workflows import DemoRequest, demo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    fields.add(parser, DemoRequest, "method", nargs="+", metavar="METHOD")
    fields.add(parser, DemoRequest, "seed", type=int)
    fields.add(parser, DemoRequest, "output", metavar="DIR")
    fields.add(parser, DemoRequest, "fresh")


def main(options: argparse.Namespace) -> None:
    # One thread for so small a model: on two busy cores a step took .15 s with one and 3.5 s with two, which wait for each other. Read by
    # the libraries when they are imported, which the workflow does.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    console = screen.console()
    result = demo(fields.made(options, DemoRequest), begin=console.rule)

    from peft_unlearn import report

    console.rule("What the model knows, before and after, and what a model knows that never met them")
    console.print(report.table(result.report))
    console.print("Of what was to be forgotten, little should be known, as by never-seen; of what was to be kept, as much as before.")
    for name, questions in result.questions.items():
        console.rule(f"Sample answers: {name} set")
        samples = range(0, 6, 2)
        answers = {view: [evaluation.answers[i] for i in samples] for view, evaluation in result.together[name].items()}
        console.print(report.side_by_side([questions[i] for i in samples], answers))
    console.print(f"Data, adapters, cards and reports are in {result.output}: begin with report.html of a method.")
    for method, run in result.runs.items():
        console.rule(method)
        console.print(report.conclusion(run.report, f"{method}/report.html"))
