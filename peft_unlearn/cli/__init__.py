"""The command line: one file a command. They import what is heavy only when they run, so that --help is quick."""

import argparse
import difflib
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from peft_unlearn import __version__
from peft_unlearn.cli import ask, audit, combine, demo, evaluate, export, keys, ledger, merge, plan, push, retrain_cost, train
from peft_unlearn.util import disk, interrupts
from peft_unlearn.util.errors import UserError, printable
from peft_unlearn.util.redaction import without_tokens

COMMANDS = {
    "plan": plan,
    "train": train,
    "retrain-cost": retrain_cost,
    "evaluate": evaluate,
    "audit": audit,
    "ask": ask,
    "combine": combine,
    "ledger": ledger,
    "merge": merge,
    "export": export,
    "push": push,
    "demo": demo,
    "keys": keys,
}


COMPLETION = ("bash", "zsh", "tcsh")
# Whether each library that draws bars is told by the environment to leave them out; read when it is first imported.
NO_BARS = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


class PrintCompletion(argparse.Action):
    """Print what a shell completes commands, options and choices by, and end."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: object, values: object, option_string: str | None = None) -> None:
        try:
            import shtab
        except ImportError as error:
            raise UserError("print-completion: shtab is not installed, run pip install 'peft-unlearn[completion]'.") from error
        print(shtab.complete(parser, str(values)))
        parser.exit()


class Parser(argparse.ArgumentParser):
    """argparse's, which also says what a mistyped word may have meant."""

    def error(self, message: str) -> NoReturn:
        if found := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)$", message):
            choices = found[2].replace("'", "").split(", ")
            message += "".join(f". Did you mean {word}?" for word in difflib.get_close_matches(found[1], choices, n=1))
        super().error(message)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="peft-unlearn", description="Make a quantized language model forget texts with a LoRA adapter.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--print-completion", action=PrintCompletion, choices=COMPLETION, help="print what a shell completes commands by")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.__doc__, description=module.__doc__, allow_abbrev=False)
        module.add_arguments(command)
        command.set_defaults(run=module.main)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 2 for what the user can mend, 130 for Ctrl-C, 143 for SIGTERM. Bugs keep their traceback."""
    parser = make_parser()
    try:
        options = parser.parse_args(argv)
        sys.argv[1:] = without_tokens(sys.argv[1:])
        _set_up_logs()
        with interrupts.raised():
            options.run(options)
    except SystemExit as stop:  # argparse: 0 after --help, 2 after a usage error
        return stop.code if isinstance(stop.code, int) else 1
    except UserError as error:
        _say(f"peft-unlearn: error: {error}")
        return 2
    except Exception as error:
        said = disk.said(error)
        if said is None:
            raise
        _say(f"peft-unlearn: error: {printable(said)}")
        return 2
    except KeyboardInterrupt as stop:
        _say(f"\npeft-unlearn: {str(stop) or 'interrupted'}")  # a bar may stand on this line
        return stop.status if isinstance(stop, interrupts.Interrupted) else 130
    return 0


def _is_first() -> bool:
    """Whether this is the process of a machine that speaks; a launcher sets LOCAL_RANK."""
    return os.environ.get("LOCAL_RANK", "0") in ("0", "-1")


def _say(message: str) -> None:
    if _is_first():
        print(message, file=sys.stderr)


def _set_up_logs() -> None:
    """Our own messages from one process a machine, bars for what takes long, and no warning that its reader can do nothing about."""
    os.environ.setdefault("TQDM_DELAY", "2")  # seconds; read when tqdm is first imported
    if not sys.stderr.isatty():  # a file keeps every state of a bar
        for variable in NO_BARS:
            os.environ.setdefault(variable, "1")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("peft_unlearn").setLevel(logging.INFO if _is_first() else logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|transformers|peft|trl|bitsandbytes|accelerate|datasets)\b")
    warnings.filterwarnings("ignore", message=".*pin_memory.*no accelerator is found")
    # PEFT looks for a config.json beside a base in a GGUF file.
    warnings.filterwarnings("ignore", message=r"Could not find a config file in .*\.gguf")
    # PEFT looks for experts among modules alone: they are parameters, and do get the rank of their pattern.
    warnings.filterwarnings("ignore", message=r".*_pattern keys did not match any targeted module.*gate_up_proj")
    # Trainer takes the tokenizer's special tokens over into the model's config, as it should.
    logging.getLogger("transformers.trainer_utils").addFilter(lambda record: "new PAD/BOS/EOS tokens" not in record.getMessage())
    # The error that `data.load` raises says the same.
    logging.getLogger("datasets.packaged_modules.json.json").setLevel(logging.CRITICAL)
    # It offers kernels for packed 4-bit weights on the CPU, which `adapters.keep_weights_unpacked` rules out.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # LLM.int8 says at each matmul that it computes in fp16.
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(lambda record: "inputs will be cast" not in record.getMessage())
