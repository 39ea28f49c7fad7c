"""Random inputs for everything that reads what a user gives: each is read, or refused in one sentence; none is a traceback or takes long.

    python benchmarks/fuzz.py [--minutes 20 | --each 30] [--only PART ...] [--seed 0]

The parts are `adapter` (adapter_config.json), `config` (config.json), `tokenizer` (tokenizer_config.json), `template` (chat templates), `recipe`
(YAML), `rows` (jsonl, csv and txt) and `written` (recipe.yaml, audit.json and report.json of an output folder). Hypothesis makes the inputs:
good ones of which some values, keys or bytes are others. The last lines say how many, and what was found, one line a kind. An input that ends the
program itself leaves a traceback; the folder that it was in, which is printed first, then holds it.
"""

import argparse
import contextlib
import copy
import faulthandler
import io
import json
import logging
import os
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import yaml
from datasets.utils import logging as datasets_logging
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from transformers.utils import logging as transformers_logging

from hostile.bed import TEMPLATE, make_bed
from hostile.recipes import VALUES
from hostile.rows import ROWS
from peft_unlearn import data
from peft_unlearn.config import reading, recipe
from peft_unlearn.data import formats
from peft_unlearn.data.rows import special_ids
from peft_unlearn.data.tokenizing import tokenize
from peft_unlearn.model import adapters, loading, saved
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows import audit_run

SECONDS = 30  # that one input may take
BATCH = 25  # inputs of one part before the next
ODD = [None, True, False, 0, -1, 1, 2**31, 2**70, 1.5, float("nan"), float("inf"), "", " ", "x", "\0", "\ud800", "é", "../x", [], {}, [None], [[]],
       {"": ""}, {"a": {}}, ["x", 5], "a" * 3000]  # fmt: skip
made = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
values = (st.sampled_from(ODD) | made).map(copy.deepcopy)  # `changed` may change them further
FRAGMENTS = [
    TEMPLATE, "{{ messages }}", "{{ messages[0]['content'] }}", "{{ messages[-1].content }}", "{% for m in messages %}", "{% endfor %}", "{% if",
    "%}", "{{", "}}", "{{ raise_exception('no') }}", "{% for i in range(99999) %}x{% endfor %}", "{{ m.content }}", "{{ bos_token }}",
    "{% if add_generation_prompt %}a{% endif %}", "{{ 1 / 0 }}", "{{ nope.nope }}", "{{ messages | tojson }}", "{{ 'x' * 100000 }}",
    "{% generation %}", "{% endgeneration %}", "{{ messages.pop() }}", "{% set x = messages[5] %}", "{{ strftime_now('%Y') }}", "\0", "</s>",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{{ ''.__class__ }}", "{% include 'x' %}", "{% import 'os' as os %}", "{{ x | nope }}",
]  # fmt: skip


class Slow(BaseException):
    pass


def changed(draw: Any, document: Any) -> Any:
    """A JSON document in which up to three values are others, gone, or new; or another document."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        place = document
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            inner = place[key]
            if isinstance(inner, dict | list) and inner and draw(st.booleans()):
                place = inner
                continue
            if draw(st.integers(0, 5)) == 0:
                del place[key]
            elif isinstance(place, dict) and draw(st.integers(0, 5)) == 0:
                place[draw(st.text(max_size=6))] = draw(values)
            else:
                place[key] = draw(values)
            break
    return document if draw(st.integers(0, 30)) else draw(values)


def torn(draw: Any, content: bytes) -> bytes:
    """Bytes of which, one time in four, some are others or the end is gone."""
    if draw(st.integers(0, 3)) or not content:
        return content
    place = draw(st.integers(0, len(content) - 1))
    return content[:place] + (b"" if draw(st.booleans()) else draw(st.binary(max_size=4)) + content[place + 1 :])


def dumped(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=True).encode()


class Parts:
    """Each part writes an input into a folder and reads it as a command would; what it gives back is what was written."""

    def __init__(self, folder: Path):
        self.folder = folder
        make_bed(folder)
        self.documents = {
            name: json.loads((folder / where).read_text())
            for name, where in (
                ("adapter", "lora/adapter_config.json"),
                ("config", "base/config.json"),
                ("tokenizer", "base/tokenizer_config.json"),
            )
        }
        self.config = loading.config("base")
        self.template_tokenizer = loading.tokenizer("base")
        self.recipe = yaml.safe_load((folder / "r.yaml").read_text())

    def adapter(self, draw: Any) -> None:
        Path("lora/adapter_config.json").write_bytes(torn(draw, dumped(changed(draw, self.documents["adapter"]))))
        saved.fit(loading.skeleton(self.config, "base"), "lora", adapters.STUDENT, key="model")
        model = saved.put(adapters.load_base("base"), "lora", adapters.STUDENT, key="model")
        model(torch.zeros(1, 2, dtype=torch.long))

    def config_json(self, draw: Any) -> None:
        Path("base/config.json").write_bytes(torn(draw, dumped(changed(draw, self.documents["config"]))))
        found = loading.config("base")
        loading.checked(found, "base")
        adapters.load_base("base")

    def tokenizer(self, draw: Any) -> None:
        Path("other/tokenizer_config.json").write_bytes(torn(draw, dumped(changed(draw, self.documents["tokenizer"]))))
        self._tokenized(loading.tokenizer("other"), data.load("forget.jsonl", name="forget_dataset"))

    def template(self, draw: Any) -> None:
        tokenizer = copy.deepcopy(self.template_tokenizer)
        tokenizer.chat_template = "".join(draw(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=5)))
        self._tokenized(tokenizer, data.load("forget.jsonl", name="forget_dataset"))

    def _tokenized(self, tokenizer: Any, rows: Any) -> None:
        if formats.is_tokenized(rows):
            return
        special_ids(tokenizer)
        tokenize(rows, tokenizer, 32, name="forget_dataset")

    def recipe_yaml(self, draw: Any) -> None:
        found = dict(self.recipe)
        for _ in range(draw(st.integers(1, 3))):
            key = draw(st.sampled_from(sorted(VALUES)))
            found[key] = draw(values | st.sampled_from(VALUES[key]))
        text = yaml.safe_dump(found, allow_unicode=draw(st.booleans())).encode(errors="surrogatepass")
        Path("fuzzed.yaml").write_bytes(torn(draw, text))
        checked = recipe.check(reading.load("fuzzed.yaml"))
        recipe.check_files(checked)
        recipe.build(checked)

    def rows(self, draw: Any) -> None:
        good = [*ROWS, {"text": "red"}, {"prompt": "who", "completion": " red"}, {"messages": [{"role": "user", "content": "who"}] * 2},
                {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, {"instruction": "a", "output": "b"},
                {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": "[]"}]  # fmt: skip
        found = [changed(draw, row) for row in draw(st.lists(st.sampled_from(good), min_size=1, max_size=3))]
        kind = draw(st.sampled_from(("jsonl", "json", "csv", "txt")))
        if kind == "jsonl":
            content = b"\n".join(map(dumped, found))
        elif kind == "json":
            content = dumped(found)
        else:
            content = draw(st.text(max_size=60)).encode(errors="surrogatepass")
            content = b"question,answer\n" + content if kind == "csv" and draw(st.booleans()) else content
        Path(f"fuzzed.{kind}").write_bytes(torn(draw, content))
        self._tokenized(self.template_tokenizer, data.load(f"fuzzed.{kind}", name="forget_dataset"))

    def written(self, draw: Any) -> None:
        Path("lora/recipe.yaml").write_bytes(torn(draw, yaml.safe_dump(changed(draw, self.recipe)).encode(errors="surrogatepass")))
        document = {"key": "k", "views": {}, "shown": {}, "facts": {}, "run": {"settings": {}}, "curve": []}
        for name in ("audit.json", "report.json"):
            Path("lora", name).write_bytes(torn(draw, dumped(changed(draw, document))))
        for read in (
            lambda: recipe.known(recipe.written(Path("lora"))),
            lambda: audit_run.Progress(Path("lora/audit.json"), "k"),
            lambda: audit_run._trained(Path("lora/report.json")),
        ):
            with contextlib.suppress(UserError):
                read()


PARTS: dict[str, Callable[[Parts, Any], None]] = {
    "adapter": Parts.adapter,
    "config": Parts.config_json,
    "tokenizer": Parts.tokenizer,
    "template": Parts.template,
    "recipe": Parts.recipe_yaml,
    "rows": Parts.rows,
    "written": Parts.written,
}


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

        one()

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
    parser.add_argument("--minutes", type=float, default=20.0, help="for all parts together")
    parser.add_argument("--each", type=float, help="minutes for each part, in place of --minutes")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    quiet()
    signal.signal(signal.SIGALRM, _slow)
    faulthandler.enable()
    number, spent = options.seed, dict.fromkeys(options.only, 0.0)
    seconds = 60 * (options.minutes / len(options.only) if options.each is None else options.each)
    with tempfile.TemporaryDirectory() as folder:
        print(folder, flush=True)
        fuzz = Fuzz(Path(folder))
        while running := [part for part in options.only if spent[part] < seconds]:
            for part in running:
                began = time.monotonic()
                fuzz.run(part, inputs=BATCH, number=number)
                spent[part] += time.monotonic() - began
            number += 1
            print(f"{sum(spent.values()):.0f} s: {dict(fuzz.inputs)} inputs, {len(fuzz.found)} kinds found", flush=True)
        os.chdir("/")
    for kind, tracebacks in fuzz.found.items():
        print(f"\n{len(tracebacks)} x {kind}\n{tracebacks[0]}")
    print(f"{dict(fuzz.inputs)} inputs, {dict(fuzz.refused)} refused, {len(fuzz.found)} kinds found, {sum(spent.values()):.0f} s")


if __name__ == "__main__":
    main()
