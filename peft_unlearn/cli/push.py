"""Upload a forgetting adapter to the Hugging Face Hub, privately unless told otherwise."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", help="the output folder of a run")
    parser.add_argument("repo", help="name of the repository, such as me/my-adapter")
    parser.add_argument("--public", action="store_true", help="anyone may then compare base and adapter, and see what was forgotten")
    parser.add_argument("--revision", help="branch to upload to")


def main(options: argparse.Namespace) -> None:
    from peft_unlearn import publish

    where = publish.push(options.adapter, options.repo, private=not options.public, revision=options.revision)
    print(f"Uploaded to {where}", "(public)" if options.public else "(private)")
