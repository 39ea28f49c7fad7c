"""What a model still knows of texts or of a benchmark: without and with a forgetting adapter, or of any causal language model as it is."""

import argparse
from functools import partial
from typing import Any, TypeVar

from peft_unlearn.cli import options as fields
from peft_unlearn.cli import screen
from peft_unlearn.workflows import AskRequest, AuditRequest, EvaluateRequest, EvaluateResult, evaluate

Measured = TypeVar("Measured", EvaluateRequest, AuditRequest, AskRequest)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    how = add_common_arguments(parser, EvaluateRequest)
    fields.add(how, EvaluateRequest, "definitions")
    fields.add(how, EvaluateRequest, "samples", type=int, metavar="K")
    fields.add(how, EvaluateRequest, "tasks", nargs="+", metavar="TASK")
    fields.add(parser, EvaluateRequest, "output", metavar="FILE")


def add_common_arguments(parser: argparse.ArgumentParser, request: type[Measured]) -> Any:
    """What `evaluate` and `audit` are both told: the model, the sets and how to read them; returns the group of the last."""
    add = partial(fields.add, request=request)
    add(parser, name="model")
    add(parser, name="base")
    add(parser, name="never_seen", metavar="MODEL")
    own = parser.add_argument_group("your own texts (each a file, a Hub name, or a YAML mapping)")
    for name in ("forget", "retain", "holdout"):
        add(own, name=name, metavar="SET", type=_texts)
    named = parser.add_argument_group("or a benchmark (docs/howto/benchmarks.md)")
    add(named, name="benchmark")
    add(named, name="data", metavar="FOLDER")
    add(named, name="split")
    how = parser.add_argument_group("how")
    add(how, name="rows", type=int)
    add(how, name="batch_size", type=int)
    add(how, name="system_prompt", metavar="TEXT")
    add(how, name="settings", nargs="+", metavar="KEY=VALUE")
    add(parser, name="show_text")
    return how


def read(options: argparse.Namespace, request: type[Measured]) -> Measured:
    from peft_unlearn.config import reading

    settings = reading.parse_overrides([f"--{pair}" for pair in getattr(options, "settings", [])])
    return fields.made(options, request, settings=settings)


def main(options: argparse.Namespace) -> None:
    show(evaluate(read(options, EvaluateRequest)))


def show(result: EvaluateResult) -> None:
    """The tables of a report, the texts where they were asked for, where the files are, and the conclusion with the word as its last line."""
    from peft_unlearn import report

    console = screen.console()
    console.print(report.table(result.report, console.width))
    if "attacks" in result.report:
        console.print(report.attack_table(result.report["attacks"]))
    if result.texts is not None:
        console.print(report.side_by_side(result.texts["question"], result.texts["answers"]))
    if result.output is not None:
        console.print(f"The report is {result.output}, the page {result.page}")
    console.print(report.conclusion(result.report, result.page.name if result.page else None))


def _texts(value: str) -> Any:
    """A set as a YAML mapping, or a file's or Hub name as it is."""
    from peft_unlearn.config import reading
    from peft_unlearn.util.errors import UserError

    if not value.startswith("{"):
        return value
    try:
        return reading.parsed(value, f"{value!r}:")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
