"""Signals that end a run: each unwinds the program, so that whatever was begun is cleaned up; a training step may be finished first."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
TOGETHER = 0.3  # seconds within which signals count as one: a terminal and a launcher both send one


class Interrupted(KeyboardInterrupt):
    """A signal has ended the run.

    Args:
        number: of the signal.
        where: what is there of the run's work, if anything.
    """

    def __init__(self, number: int, where: str = ""):
        super().__init__(f"interrupted by {signal.Signals(number).name}{where}")
        self.status = 128 + number  # as a shell has it


class _Waiting:
    """Whether a signal is to wait for the end of a step, and the first one that does."""

    def __init__(self) -> None:
        self.deferring, self.first, self.at = False, 0, 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.deferring and not self.first:
            self.first, self.at = number, time.monotonic()
            if os.environ.get("LOCAL_RANK", "0") in ("0", "-1"):
                # not by print, within which the signal may have come
                os.write(2, b"\npeft-unlearn: this step is finished and saved first; a second signal ends the run at once\n")
        elif not self.deferring or time.monotonic() - self.at > TOGETHER:
            raise Interrupted(number)


_waiting = _Waiting()


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Have SIGINT, SIGTERM and SIGHUP raise `Interrupted`. Those that are ignored stay so, as for what nohup has started."""
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in [number for number, handler in before.items() if handler is not signal.SIG_IGN]:
        signal.signal(number, _waiting)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def deferred(where: Callable[[], str]) -> Iterator[None]:
    """Within `raised`, have the first signal wait for the end, unless who runs meanwhile asks for it and ends sooner; a second one raises.

    `where` says what is there of the run's work then, after a semicolon.
    """
    _waiting.deferring, _waiting.first = True, 0
    try:
        yield
        if _waiting.first:
            raise Interrupted(_waiting.first, where())
    finally:
        _waiting.deferring, _waiting.first = False, 0


def waiting() -> int:
    """The number of the signal that waits; 0 where there is none."""
    return _waiting.first


def agree(number: int) -> None:
    """Wait with a signal that another process of the run has got."""
    _waiting.first = number
