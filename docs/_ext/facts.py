"""What the package says of itself: commands, keys, methods and parts. The site's tables and tests/test_surface.py read it here."""

import argparse
from typing import Any

from peft_unlearn import cli
from peft_unlearn.config import methods
from peft_unlearn.config.keys import groups
from peft_unlearn.util.registry import ATTACKS, COMBINERS, LOSSES, METRICS

REGISTRIES = {"losses": LOSSES, "combine": COMBINERS, "metrics": METRICS, "attacks": ATTACKS}


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, as `cli.main` makes it."""
    found = {}
    for name, module in cli.COMMANDS.items():
        found[name] = argparse.ArgumentParser(prog=f"peft-unlearn {name}", description=module.__doc__, allow_abbrev=False)
        module.add_arguments(found[name])
    return found


def options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Positional arguments and options, without --help."""
    return [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]


def own_keys() -> list[str]:
    """Keys that are ours: not those that transformers and TRL declare and help with in the same words."""
    *ours, _ = groups().values()
    return [key.name for group in ours for key in group]


def with_targets(name: str) -> dict[str, Any]:
    """What a method sets otherwise with `stop_at`."""
    without, with_stop = methods.defaults(name), methods.defaults(name, "auto")
    return {key: value for key, value in with_stop.items() if without[key] != value}
