"""`--processes`: a command in several processes of this machine, started by torch's own launcher, without the page that it prints of an error."""

import contextlib
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from peft_unlearn.util import interrupts
from peft_unlearn.util.errors import UserError

OPTION = "--processes"


def taken(words: Sequence[str]) -> tuple[int, list[str]]:
    """The number that `--processes` asks for, 1 without it, and the words without it.

    Raises:
        UserError: it is no number, or a launcher has started this process already.
    """
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == OPTION:
            after = at + 1 if equals else at + 2
            value = value if equals else "".join(words[at + 1 : after])
            if not value.isdecimal() or not int(value):
                raise UserError(f"processes: {value!r} is no number of processes, write 1 or more.")
            if "WORLD_SIZE" in os.environ:
                raise UserError("processes: a launcher has started this process already, leave --processes out.")
            return int(value), [*words[:at], *words[after:]]
    return 1, list(words)


def check(number: int, *, on_cpu: bool) -> None:
    """See that each of so many processes has a GPU where there are any.

    Raises:
        UserError: there are fewer.
    """
    import torch

    if not on_cpu and 0 < torch.cuda.device_count() < number:
        raise UserError(f"processes: each takes a GPU and this machine shows {torch.cuda.device_count()}, write that.")


def launch(number: int, program: str | Callable[..., Any], *words: Any) -> None:
    """Run a program in so many processes, which find one another as those of `torchrun` do, until all have ended.

    Args:
        program: an executable, or a function that forks of this process run.
        words: its arguments.

    Raises:
        SystemExit: one has failed; its status. What a signal has ended is said first.
        Interrupted: a signal has come to this process, and all have ended.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // number)))
    place: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0", "local_addr": "127.0.0.1", "run_id": uuid.uuid4().hex}
    config = LaunchConfig(1, 1, number, max_restarts=0, start_method="fork", **place)
    try:
        with _quiet():
            elastic_launch(config, program)(*words)
    except ChildFailedError as error:
        statuses = {process: failure.exitcode for process, failure in error.failures.items()}
        process, status = min(statuses.items(), key=lambda found: found[1])  # one that a signal has ended, before those that lost it
        if status < 0:
            print(died(process, number, signal.Signals(-status).name), file=sys.stderr)
        raise SystemExit(status if status > 0 else 1) from None
    except SignalException as error:
        raise interrupts.Interrupted(error.sigval) from None


def died(process: int, number: int, by: str) -> str:
    """What is said of a process that a signal has ended."""
    return (
        f"peft-unlearn: process {process} of {number} was ended by {by}, and so were the others; if there is a checkpoint, the run goes on with "
        "--resume_from_checkpoint true"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the launcher's own account of an error: a process has said what is wrong."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
