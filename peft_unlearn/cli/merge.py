"""Merge a forgetting adapter into the 16/32-bit weights of its base, shard by shard."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", help="the output folder of a run, or a Hub name")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder for the merged model")
    parser.add_argument("--base", help="the 16/32-bit base; the one that the adapter names if left out")
    parser.add_argument("--to", choices=["bf16", "fp16", "fp32"], help="type of the merged weights; the base's own if left out")
    parser.add_argument("--below", help="the adapter that this one was trained on top of; the one that its recipe.yaml names if left out")


def main(options: argparse.Namespace) -> None:
    from pathlib import Path

    import yaml

    from peft_unlearn import deploy, recipe

    written = Path(options.adapter) / recipe.FILE
    settings = yaml.safe_load(written.read_text(encoding="utf-8")) if written.is_file() else {}
    below = options.below
    if below is None and settings.get("adapter_mode") != "continue":
        below = settings.get("adapter_name_or_path")
    result = deploy.merge(options.adapter, options.output, base=options.base, dtype=options.to, below=(below,) if below else ())
    change = sorted(result.change.values())
    print(f"Merged into {result.folder}: {len(change)} weights changed, by {change[0]:.2%} to {change[-1]:.2%} of their norm.")
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        print(
            "Its base is the 16/32-bit one and the adapter was trained on a quantised one: the numbers of report.json need not hold. "
            f"Measure again: peft-unlearn evaluate {result.folder} --forget ... --retain ..."
        )
