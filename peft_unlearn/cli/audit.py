"""Attack an adapter: what precision, scale, other prompts, samples and relearning bring back of what it made a model forget."""

import argparse

from peft_unlearn.cli.evaluate import add_common_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    how = add_common_arguments(parser, ("tofu", "muse"))
    parser.set_defaults(definitions="peft-unlearn", samples=0)
    attacks = parser.add_argument_group("attacks (docs/audit.md)")
    depth = attacks.add_mutually_exclusive_group()
    depth.add_argument("--quick", action="store_true", help="the attacks of the quick set, each in its shorter form (default)")
    depth.add_argument("--full", action="store_true", help="every attack, in its longer form")
    attacks.add_argument("--attacks", nargs="+", default=[], metavar="NAME", help="these attacks alone")
    attacks.add_argument("--with", nargs="+", default=[], dest="others", metavar="ADAPTER", help="adapters to compose this one with")
    how.add_argument("--output", metavar="FILE", help="the report; report.json in the adapter's folder if left out")


def main(options: argparse.Namespace) -> None:
    from pathlib import Path

    from peft_unlearn.util.errors import UserError
    from peft_unlearn.workflows import requests

    if options.output is None and not Path(options.model).is_dir():
        raise UserError(f"output: {options.model} is no local folder that a report could lie in, write --output FILE.")
    wanted = requests.read(options)  # before what imports torch

    from rich.console import Console

    from peft_unlearn import attacks, report
    from peft_unlearn.report import page
    from peft_unlearn.workflows import audit, evaluate, loading

    chosen = attacks.choose(options.attacks, full=options.full)
    output = Path(options.output or Path(options.model) / "report.json")
    job = evaluate.plan(wanted)
    for other in options.others:
        loading.check_adapter(other, job.plan.model.model_name_or_path or "", key="with")
    made, texts = audit.run(job, chosen, output)
    console = Console()
    console.print(report.table(made, console.width))
    console.print(report.attack_table(made["attacks"]))
    if texts is not None:
        console.print(report.side_by_side(texts["question"], texts["answers"]))
    report.write(made, output)
    page.write(made, output.with_suffix(".html"), texts=texts)
    if job.is_adapter and output.resolve() == (job.folder / "report.json").resolve() and "settings" in made["run"]:
        audit.write_card(job, made)
    console.print(f"The report is {output}, the page {output.with_suffix('.html')}")
