"""Random inputs for everything that reads what a user gives: each is read, or refused in one sentence; none is a traceback or takes long.

    python benchmarks/fuzz.py [--minutes 20 | --each 30] [--only PART ...] [--seed 0]  # minutes of CPU
    python benchmarks/fuzz.py --guided --each 30 --only PART                           # by coverage, where atheris is installed

The parts are `adapter` (adapter_config.json), `config` (config.json), `tokenizer` (tokenizer_config.json), `template` (chat templates), `recipe`
(YAML), `rows` (jsonl, csv and txt), `written` (recipe.yaml and audit.json of an output folder), `reports` (report.json) and `checkpoints`.
Hypothesis makes the inputs: good ones of which some values, keys or bytes are others. The last lines say how many, and what was found, one line a
kind. An input that ends the program itself leaves a traceback; the folder that it was in, which is printed first, then holds it.
"""

import argparse
import atexit
import contextlib
import faulthandler
import io
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets.utils import logging as datasets_logging
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from transformers.utils import logging as transformers_logging

GUIDED = "--guided" in sys.argv
if GUIDED:
    import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["peft_unlearn", "yaml"]) if GUIDED else contextlib.nullcontext():
    from hostile.parts import PARTS, Parts
    from peft_unlearn.util.errors import UserError

SECONDS = 30  # that one input may take
BATCH = 25  # inputs of one part before the next


class Slow(BaseException):
    pass


class Fuzz:
    """Runs parts in a folder of its own and keeps what was found: kind -> (how often, the first input's traceback)."""

    def __init__(self, folder: Path):
        os.chdir(folder)
        self.parts = Parts(folder)
        self.inputs: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.found: dict[str, list[str]] = {}

    def run(self, part: str, *, inputs: int, number: int) -> None:
        """Give `part` so many inputs, drawn by the seed `number`."""
        self.test(part, inputs, number)()

    def guide(self, part: str, *, seconds: float) -> None:
        """Give `part` inputs by the branches that they reach, for so long; atheris ends the program."""
        atexit.register(
            lambda: print(f"{dict(self.inputs)} inputs, {dict(self.refused)} refused, {len(self.found)} kinds found", flush=True)
        )
        atheris.Setup([sys.argv[0], f"-max_total_time={seconds:.0f}", "-rss_limit_mb=0"], self.test(part, 1, 0).hypothesis.fuzz_one_input)
        atheris.Fuzz()

    def test(self, part: str, inputs: int, number: int) -> Any:
        """A test of hypothesis on `part` that keeps what it finds."""

        @seed(number)
        @settings(max_examples=inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.data())
        def one(source: Any) -> None:
            self.inputs[part] += 1
            before, draw = time.monotonic(), source.draw
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                    warnings.simplefilter("ignore")
                    PARTS[part](self.parts, draw)
            except UserError as error:
                self.refused[part] += 1
                if len(str(error).splitlines()) != 1:
                    self._keep(part, error)
            except Slow:
                self._keep(part, TimeoutError(f"more than {time.monotonic() - before:.0f} s"))
            except Exception as error:
                if type(error).__module__.startswith("hypothesis"):
                    raise
                self._keep(part, error)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)

        return one

    def _keep(self, part: str, error: Exception) -> None:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if "peft_unlearn/" in frame.filename]
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
        kind = f"{part}: {type(error).__name__} at {place}"
        if kind not in self.found:
            print(f"found: {kind}: {str(error)[:200]!r}", flush=True)
        self.found.setdefault(kind, []).append("".join(traceback.format_exception(error))[-1500:])


def quiet() -> None:
    logging.disable(logging.CRITICAL)
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    datasets_logging.disable_progress_bar()
    torch.set_num_threads(1)


def _slow(*_: object) -> None:
    raise Slow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="of CPU, for all parts together")
    parser.add_argument("--each", type=float, help="minutes for each part, in place of --minutes")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris, one part")
    options = parser.parse_args()
    quiet()
    signal.signal(signal.SIGALRM, _slow)
    faulthandler.enable()
    number, spent = options.seed, dict.fromkeys(options.only, 0.0)
    seconds = 60 * (options.minutes / len(options.only) if options.each is None else options.each)
    with tempfile.TemporaryDirectory() as folder:
        print(folder, flush=True)
        fuzz = Fuzz(Path(folder))
        if GUIDED:
            fuzz.guide(options.only[0], seconds=seconds)
        while running := [part for part in options.only if spent[part] < seconds]:
            for part in running:
                began = time.process_time()
                fuzz.run(part, inputs=BATCH, number=number)
                spent[part] += time.process_time() - began
            number += 1
            print(f"{sum(spent.values()):.0f} s: {dict(fuzz.inputs)} inputs, {len(fuzz.found)} kinds found", flush=True)
        os.chdir("/")
    for kind, tracebacks in fuzz.found.items():
        print(f"\n{len(tracebacks)} x {kind}\n{tracebacks[0]}")
    print(f"{dict(fuzz.inputs)} inputs, {dict(fuzz.refused)} refused, {len(fuzz.found)} kinds found, {sum(spent.values()):.0f} s")


if __name__ == "__main__":
    main()
