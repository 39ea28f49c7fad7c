"""Upload a forgetting adapter to the Hugging Face Hub, privately unless told otherwise."""

import argparse

from peft_unlearn.cli import options as fields
from peft_unlearn.workflows import PushRequest, push


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("adapter", "repo", "public", "revision"):
        fields.add(parser, PushRequest, name)


def main(options: argparse.Namespace) -> None:
    result = push(fields.made(options, PushRequest))
    print(f"Uploaded to {result.address}", "(private)" if result.private else "(public)")
