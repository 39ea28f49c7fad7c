"""Merge a forgetting adapter into its base, shard by shard, measure what survives, and evaluate what was written."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", help="the output folder of a run, or a Hub name")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder for the merged model")
    parser.add_argument("--base", help="the base; the one that the adapter names if left out")
    parser.add_argument("--below", help="the adapter that this one was trained on top of; the one that its recipe.yaml names if left out")
    parser.add_argument("--to", choices=["bf16", "fp16", "fp32"], help="type of the merged weights; the base's own if left out")
    parser.add_argument("--quantize", choices=["nf4", "int8"], help="quantise after merging; nf4 with double quantisation")
    parser.add_argument(
        "--onto",
        choices=["original", "dequantized"],
        default="original",
        help="dequantized: onto the quantised weights that the adapter was trained on, as recipe.yaml says (nf4 if there is none)",
    )
    parser.add_argument("--force", action="store_true", help="merge in place into quantised weights, which erases small changes")
    parser.add_argument("--no-evaluate", dest="evaluate", action="store_false", help="do not evaluate the merged folder")


def main(options: argparse.Namespace) -> None:
    from pathlib import Path

    import yaml
    from rich.console import Console

    from peft_unlearn import merging, report
    from peft_unlearn.config import recipe
    from peft_unlearn.merging import survival
    from peft_unlearn.util.errors import UserError
    from peft_unlearn.workflows import merged

    written = Path(options.adapter) / recipe.FILE
    settings = yaml.safe_load(written.read_text(encoding="utf-8")) if written.is_file() else {}
    below = options.below
    if below is None and settings.get("adapter_mode") != "continue":
        below = settings.get("adapter_name_or_path")
    result = merging.merge(
        options.adapter,
        options.output,
        base=options.base,
        dtype=options.to,
        quantize=options.quantize,
        onto=options.onto,
        trained=merged.trained_on(settings),
        force=options.force,
        below=(below,) if below else (),
    )
    console = Console()
    console.print(survival.table(result.survival))
    console.print(f"Merged into {result.folder}; every weight's numbers are in {merging.REPORT} there.")
    alpha = survival.median_alpha(result.survival)
    if alpha is not None and alpha < survival.SURVIVES:
        console.print(
            f"Warning: the median α is {alpha:.3f}, so much of the forgetting may be rounded away; merge to more bits, or train longer."
        )
    if not options.evaluate:
        return
    try:
        console.print(report.table(merged.evaluate(result.folder, Path(options.adapter), settings), console.width))
    except UserError as error:
        console.print(f"Not evaluated: {error} {merged.by_hand(result.folder, settings)}", markup=False, soft_wrap=True)
