"""Write into a new folder what `push` would upload: weights, tokenizer, card, recipe and report, without local paths."""

import argparse

from peft_unlearn.cli import options as fields
from peft_unlearn.workflows import ExportRequest, export


def add_arguments(parser: argparse.ArgumentParser) -> None:
    fields.add(parser, ExportRequest, "adapter")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    for name in ("base", "below"):
        fields.add(parser, ExportRequest, name)


def main(options: argparse.Namespace) -> None:
    result = export(fields.made(options, ExportRequest))
    print(f"Exported to {result.folder}: {', '.join(result.files)}")
