"""Attack an adapter: what precision, scale, other prompts, samples and relearning bring back of what it made a model forget."""

import argparse

from peft_unlearn.cli import evaluate
from peft_unlearn.cli import options as fields
from peft_unlearn.workflows import AuditRequest, audit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    how = evaluate.add_common_arguments(parser, AuditRequest)
    attacks = parser.add_argument_group("attacks (docs/howto/audit.md)")
    depth = attacks.add_mutually_exclusive_group()
    depth.add_argument("--quick", action="store_true", help="the attacks of the quick set, each in its shorter form (default)")
    fields.add(depth, AuditRequest, "full")
    fields.add(attacks, AuditRequest, "attacks", nargs="+", metavar="NAME")
    fields.add(attacks, AuditRequest, "others", nargs="+", metavar="ADAPTER")
    fields.add(how, AuditRequest, "output", metavar="FILE")


def main(options: argparse.Namespace) -> None:
    evaluate.show(audit(evaluate.read(options, AuditRequest)))
