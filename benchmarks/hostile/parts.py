"""What is read of a user's, by part: a good input of which some values, keys or bytes are others, read as a command would read it."""

import contextlib
import copy
import io
import json
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from hypothesis import strategies as st

from hostile.bed import TEMPLATE, make_bed, make_run
from hostile.lines import RESUME
from hostile.recipes import VALUES
from hostile.rows import ROWS
from peft_unlearn import data, report
from peft_unlearn.cli import main as command
from peft_unlearn.config import reading, recipe
from peft_unlearn.config.unlearn_config import ModelArguments
from peft_unlearn.data import formats
from peft_unlearn.data.rows import special_ids
from peft_unlearn.data.tokenizing import tokenize
from peft_unlearn.model import adapters, loading, saved
from peft_unlearn.publish import hub
from peft_unlearn.report import page
from peft_unlearn.util import manifest
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows import audit_run, merged

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
        document = {"key": "k", "views": {}, "shown": {}, "facts": {}}
        Path("lora/audit.json").write_bytes(torn(draw, dumped(changed(draw, document))))
        with contextlib.suppress(UserError):
            recipe.known(recipe.written(Path("lora")))
        audit_run.Progress(Path("lora/audit.json"), "k")

    @cached_property
    def trained(self) -> dict[str, Any]:
        """The report of a run in the folder "run"."""
        with contextlib.redirect_stdout(None):
            make_run(self.folder)
        shutil.copytree("run", "again")
        found: dict[str, Any] = json.loads(Path("run/report.json").read_text())
        return found

    def reports(self, draw: Any) -> None:
        """As an audit goes on with one, a merge takes numbers over from one, and a push cuts the paths of one."""
        results, path = self.trained["results"], Path("run/report.json")
        path.write_bytes(torn(draw, dumped(changed(draw, self.trained))))
        with contextlib.suppress(UserError):
            hub.publishable(path.parent)
        reported = report.read(path)
        taken_over, _ = merged.beside(reported, {name: views["after"] for name, views in results.items()}, path)
        for made in (report.build(taken_over, {}), report.build(results, **(audit_run._trained(path) or {"run": {}}))):
            report.table(made, 80)
            if draw(st.integers(0, 9)) == 0:  # which draws figures, and takes a while
                page.page(made)
            if "settings" in made["run"]:
                audit_run.write_card(SimpleNamespace(folder=path.parent, plan=SimpleNamespace(model=ModelArguments())), made)

    def checkpoints(self, draw: Any) -> None:
        """One of which some bytes are others; or a whole one, by its manifest, that no run has written."""
        self.trained  # noqa: B018
        shutil.rmtree("again")
        shutil.copytree("run", "again")
        folder = Path("again/checkpoint-1")
        if draw(st.integers(0, 3)) == 0:
            content = manifest.read(folder)
            manifest.write(folder, changed(draw, content))
        else:
            file = draw(st.sampled_from(sorted(path for path in folder.iterdir() if path.is_file())))
            facts, content = manifest.read(folder), file.read_bytes()
            json_file = file.suffix == ".json" and draw(st.booleans())
            file.write_bytes(torn(draw, dumped(changed(draw, json.loads(content)))) if json_file else torn(draw, content))
            (folder / manifest.FILE).unlink() if file.name != manifest.FILE and draw(st.booleans()) else None
            if not (folder / manifest.FILE).exists():
                manifest.write(folder, facts)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = command([*RESUME[:3], "again", *RESUME[4:], str(folder)])
        if status:
            raise UserError(said.getvalue().strip().splitlines()[-1])


PARTS: dict[str, Callable[[Parts, Any], None]] = {
    "adapter": Parts.adapter,
    "config": Parts.config_json,
    "tokenizer": Parts.tokenizer,
    "template": Parts.template,
    "recipe": Parts.recipe_yaml,
    "rows": Parts.rows,
    "written": Parts.written,
    "reports": Parts.reports,
    "checkpoints": Parts.checkpoints,
}
