"""What a launcher has started does not outlive it."""

import os
import subprocess
import sys
import time

import pytest

WORKER = """
import os, signal, sys, time
from peft_unlearn.util import launched
launched.EVERY, launched.PATIENCE = 0.1, 0.5
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
launched.watch()
print(os.getpid(), flush=True)
time.sleep(60)
"""
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]])"


@pytest.mark.parametrize("kind", ["hearing", "deaf"])
def test_a_worker_ends_soon_after_its_launcher_was_killed(kind):
    environment = {**os.environ, "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", LAUNCHER, WORKER, kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True) as launcher:
        worker = int(launcher.stdout.readline())
        launcher.kill()
        launcher.wait()
        assert launcher.stderr.read() == "\npeft-unlearn: the launcher is gone, so this process ends\n"  # which ends with the worker
    until = time.monotonic() + 10
    while time.monotonic() < until and alive(worker):
        time.sleep(0.05)
    assert not alive(worker)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat", encoding="utf-8") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


def test_a_process_on_its_own_is_not_watched():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from peft_unlearn.util import launched; import threading; launched.watch(); print(threading.active_count())",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if name != "WORLD_SIZE"},
    )
    assert done.stdout == "1\n"
