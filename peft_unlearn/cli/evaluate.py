"""What a model still knows of texts or of a benchmark: without and with a forgetting adapter, or of any causal language model as it is."""

import argparse
from collections.abc import Sequence
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    how = add_common_arguments(parser, ("tofu", "muse", "wmdp"))
    how.add_argument("--definitions", choices=("peft-unlearn", "openunlearning"), default="peft-unlearn", help="whose metrics")
    how.add_argument("--samples", type=int, default=0, metavar="K", help="also draw K answers to each forget row (leak at k)")
    parser.add_argument("--output", metavar="FILE", help="write a report.json here, and the same as a page, report.html, beside it")


def add_common_arguments(parser: argparse.ArgumentParser, benchmarks: Sequence[str]) -> Any:
    """What `evaluate` and `audit` are both told: the model, the sets and how to read them; returns the group of the last."""
    parser.add_argument("model", help="an output folder of a run, whose recipe.yaml says what is not said here; a whole model; a Hub name")
    parser.add_argument("--base", help="the base model of an adapter")
    parser.add_argument("--never-seen", metavar="MODEL", help="a model or adapter that never saw the forget set, to compare with")
    own = parser.add_argument_group("your own texts (each a file, a Hub name, or a YAML mapping)")
    own.add_argument("--forget", metavar="SET", help="the texts to forget")
    own.add_argument("--retain", metavar="SET", help="the texts to keep")
    own.add_argument("--holdout", metavar="SET", help="texts of the forget set's kind that no model saw, for membership")
    named = parser.add_argument_group("or a benchmark (docs/evaluation.md)")
    named.add_argument("--benchmark", choices=benchmarks, help="instead of texts of your own")
    named.add_argument("--data", metavar="FOLDER", help="its official files, or a dataset on the Hub; the official one there if left out")
    named.add_argument("--split", help="tofu: forget01, forget05, forget10; muse: news, books; wmdp: bio, cyber, chem")
    how = parser.add_argument_group("how")
    how.add_argument("--rows", type=int, help="rows of each set, evenly spaced; 0 is all, and the default of a benchmark")
    how.add_argument("--batch-size", type=int, help="rows in a batch")
    how.add_argument("--system-prompt", metavar="TEXT", help="a system turn before every conversation of the chat template")
    how.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other keys of a recipe, such as load_in_4bit=true")
    parser.add_argument("--show-text", action="store_true", help="show questions and answers of the forget set, also on the page")
    return how


def main(options: argparse.Namespace) -> None:
    from pathlib import Path

    from peft_unlearn.workflows import requests

    wanted = requests.read(options)  # before what imports torch

    from rich.console import Console

    from peft_unlearn import report
    from peft_unlearn.report import page
    from peft_unlearn.workflows import evaluate

    job = evaluate.plan(wanted)
    views, facts = evaluate.measure_views(job)
    job.benchmark.compare(views, job.how)
    made = report.build(
        {name: {view: sets[name] for view, sets in views.items()} for name in next(iter(views.values()))},
        run=facts,
        never_seen=job.never_seen_facts(),
        definitions=job.how.definitions,
    )
    Console().print(report.table(made, Console().width))
    texts = evaluate.forget_texts(job, views) if options.show_text else None
    if texts is not None:
        Console().print(report.side_by_side(texts["question"], texts["answers"]))
    if options.output:
        output = Path(options.output)
        report.write(made, output)
        page.write(made, output.with_suffix(".html"), texts=texts)
