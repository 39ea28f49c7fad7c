"""Commands in forks of a process that has imported everything: each costs its own work alone."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from peft_unlearn.cli import main


def start(words: Sequence[str], log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Begin a command, after `prepare` in its own process; what it prints goes to a file. Returns the process's number."""
    if pid := os.fork():
        return pid
    status = 70
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        prepare()
        status = main(words)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def finish(words: Sequence[str], log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Run a command to its end, and give its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(start(words, log, prepare), 0)[1])
