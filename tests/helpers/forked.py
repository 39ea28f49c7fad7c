"""Programs in processes of their own that take the libraries over from this one: to import them anew takes ten seconds of a core.

Such a process forgets our package and the tests' modules, so that it imports them as a new one would, with what is installed there.
"""

import importlib
import logging
import multiprocessing
import os
import socket
import sys
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate.state import AcceleratorState

ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / folder) for folder in ("peft_unlearn", "tests", "benchmarks"))
CONTEXT = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")  # what uses a GPU cannot be forked


@dataclass(frozen=True)
class Done:
    returncode: int | None
    stdout: str
    stderr: str


def start(code: str, *arguments: str, folder: Path, output: Path, **environment: str) -> BaseProcess:
    """Begin Python code in `folder`, as the leader of a new session; `output` gets what it prints, with the endings .out and .err."""
    process = CONTEXT.Process(target=_program, args=(code, arguments, folder, output, environment))
    process.start()
    return process


def run(code: str, *arguments: str, folder: Path, processes: int = 1, **environment: str) -> list[Done]:
    """Run Python code in `folder`, in so many processes that find each other as those of `torchrun` do."""
    with TemporaryDirectory() as scratch:
        outputs = [Path(scratch, str(rank)) for rank in range(processes)]
        places = _places(processes) if processes > 1 else [{}]
        begun = [
            start(code, *arguments, folder=folder, output=output, **environment, **place)
            for output, place in zip(outputs, places, strict=True)
        ]
        for process in begun:
            process.join(240)
            process.kill()
            process.join()
        said = [[output.with_suffix(ending).read_text() for ending in (".out", ".err")] for output in outputs]
        return [Done(process.exitcode, *texts) for process, texts in zip(begun, said, strict=True)]


def _places(processes: int) -> list[dict[str, str]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _program(code: str, arguments: tuple[str, ...], folder: Path, output: Path, environment: dict[str, str]) -> None:
    os.setsid()
    for number, ending in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(output.with_suffix(ending), os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    logging.getLogger().handlers.clear()  # pytest's
    AcceleratorState._reset_state(reset_partial_state=True)
    for name, module in list(sys.modules.items()):
        if name != "__main__" and str(getattr(module, "__file__", "")).startswith(OURS):
            del sys.modules[name]
    os.environ.update({"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment)
    torch.set_num_threads(1)
    os.chdir(folder)
    sys.argv, sys.path[:0] = ["-c", *arguments], [str(folder)]
    importlib.invalidate_caches()
    exec(code, {"__name__": "__main__"})
