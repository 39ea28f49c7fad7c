"""Upload an adapter or a merged model to the Hugging Face Hub, privately unless told otherwise."""

import argparse
import dataclasses
import sys
from pathlib import Path

from peft_unlearn.cli import options as fields
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows import PushRequest, push


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("adapter", "repo", "public", "revision", "base", "below"):
        fields.add(parser, PushRequest, name)
    parser.add_argument("--yes", action="store_true", help="with --public: upload without being asked")


def main(options: argparse.Namespace) -> None:
    request = fields.made(options, PushRequest)
    if request.base is None and sys.stdin.isatty():
        request = dataclasses.replace(request, base=_asked_base(Path(request.adapter)))
    result = push(request, confirm=_says_yes if options.yes else _confirm)
    print(f"Uploaded to {result.address}", "(private)" if result.private else "(public)")


def _asked_base(folder: Path) -> str | None:
    """The base's name on the Hub, asked for where the folder does not say it; None for an empty answer."""
    from peft_unlearn.publish.files import says_no_base

    if not says_no_base(folder):
        return None
    return input("The base is a folder here. Its name on the Hub (empty: the card names none): ").strip() or None


def _confirm(said: str) -> bool:
    """Whether the user wants what is said to become public."""
    if not sys.stdin.isatty():
        raise UserError("public: nobody is there to be asked whether it may become public; add --yes.")
    print(said)
    return input("Make it public? Write yes: ").strip().lower() == "yes"


def _says_yes(said: str) -> bool:
    print(said)
    return True
