"""Make a model forget: read a recipe, check all of it, train an adapter, evaluate before and after, write it all down."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "peft-unlearn train RECIPE.yaml [--key value ...]"
    parser.epilog = "`peft-unlearn keys` prints every key. Under several processes: accelerate launch -m peft_unlearn train RECIPE.yaml"
    parser.add_argument("recipe", help="a YAML file of keys and values; recipes/ holds some to start from")
    parser.add_argument("overrides", nargs=argparse.REMAINDER, metavar="--key value", help="keys that differ from the recipe's")


def main(options: argparse.Namespace) -> None:
    from peft_unlearn.config import reading, recipe

    values = recipe.check(reading.load(options.recipe, options.overrides))
    recipe.check_files(values)

    import torch  # only now: what is wrong with a recipe is said at once

    from peft_unlearn.workflows.train import run

    try:
        run(recipe.build(values))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # or gloo's threads may abort the process as it exits
