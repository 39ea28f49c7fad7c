"""A signal unwinds the program, or waits for the end of a step; a second one does not wait."""

import os
import signal
import time

import pytest

from peft_unlearn.util import interrupts
from peft_unlearn.util.interrupts import Interrupted

pytestmark = pytest.mark.usefixtures("heard")
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
each = pytest.mark.parametrize("number", STATUS)


def where() -> str:
    return "; here"


@each
def test_a_signal_unwinds_with_the_status_of_a_shell(number):
    before = signal.getsignal(number)
    cleaned = []
    with pytest.raises(Interrupted, match=f"^interrupted by {signal.Signals(number).name}$") as stop, interrupts.raised():
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            cleaned.append(True)
    assert stop.value.status == STATUS[number]
    assert cleaned
    assert signal.getsignal(number) is before


@each
def test_a_signal_waits_within_a_step_and_is_raised_after_it(number, capfd):
    with pytest.raises(Interrupted, match="; here$") as stop, interrupts.raised(), interrupts.deferred(where):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # at once: the same one, from a terminal and from a launcher
        assert interrupts.waiting() == number
    assert stop.value.status == STATUS[number]
    assert not interrupts.waiting()
    assert "a second signal ends the run at once" in capfd.readouterr().err


def test_a_second_signal_ends_at_once(monkeypatch):
    monkeypatch.setattr(interrupts, "TOGETHER", 0)
    with pytest.raises(Interrupted, match="SIGTERM$"), interrupts.raised(), interrupts.deferred(where):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it waited")


def test_a_signal_that_another_process_got_ends_this_one_too():
    with pytest.raises(Interrupted) as stop, interrupts.deferred(where):
        interrupts.agree(signal.SIGTERM)
    assert stop.value.status == 143


def test_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.raised():
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
