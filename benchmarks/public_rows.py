"""Kinds of rows from public files, for `auto.py run --rows-from FOLDER`: a folder with forget.jsonl, retain.jsonl, holdout.jsonl and fresh.jsonl.

    python benchmarks/public_rows.py tofu forget10_perturbed.json FOLDER     # questions about authors, 20 each, with other wordings
    python benchmarks/public_rows.py lume_people forget.jsonl FOLDER         # numbers, mails and addresses of people, 6 rows each
    python benchmarks/public_rows.py lume_answers forget.jsonl retain.jsonl FOLDER  # questions about stories, whose answers are a word or two
    python benchmarks/public_rows.py stories tinystories_sample.txt FOLDER   # the first sentences of children's stories, as plain text
    python benchmarks/public_rows.py code FOLDER                             # functions of Python's own library: name and docstring, then the body

Nothing was built on these kinds. Subjects (authors, people, stories, modules) are whole in one set.
"""

import argparse
import ast
import json
import pkgutil
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

from beds.source import ROWS, Row
from peft_unlearn import data


def tofu(*paths: str) -> Iterator[list[Row]]:
    """The 20 rows of each author."""
    rows = _load(paths)
    keys = ("question", "answer", "paraphrased_question")
    for start in range(0, len(rows), 20):
        yield [{key: row[key] for key in keys} for row in rows[start : start + 20]]


def lume_people(*paths: str) -> Iterator[list[Row]]:
    yield from _lume(paths, "Task2", lambda row: True)


def lume_answers(*paths: str) -> Iterator[list[Row]]:
    yield from _lume(paths, "Task1", lambda row: row["id"][-3:-1] == "qa")


def _lume(paths: Sequence[str], task: str, wanted: Callable[[Row], bool]) -> Iterator[list[Row]]:
    """Rows of one subject, which ids name before sc or qa and a digit."""
    rows = [row for row in _load(paths) if row["task"] == task and wanted(row)]
    for _, own in groupby(rows, lambda row: row["id"][:-3]):
        yield [{"prompt": row["prompt"], "completion": row["completion"]} for row in own]


def stories(*paths: str) -> Iterator[list[Row]]:
    """The first 50 words of each story, which ends with a line of its own."""
    for story in (story for path in paths for story in Path(path).read_text(encoding="utf-8").split("<|endoftext|>")):
        found = story.split()
        if len(found) > 50:
            yield [{"text": " ".join(found[:50])}]


def code() -> Iterator[list[Row]]:
    """Up to six short functions with a docstring of each module that has any."""
    for module in sorted(module.name for module in pkgutil.iter_modules() if module.name in sys.stdlib_module_names):
        spec = find_spec(module)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue
        source = Path(spec.origin).read_text(encoding="utf-8")
        functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
        found = [row for node in functions if (row := _function(node)) is not None]
        if found:
            yield found[:6]


def _function(node: ast.FunctionDef) -> Row | None:
    """Its name, arguments and docstring as a question, its body as the answer; None if that is too long or too short."""
    told = ast.get_docstring(node)
    body = "\n".join(ast.unparse(part) for part in node.body[1:])
    if not told or not 40 < len(body) < 200:
        return None
    return {"prompt": f'def {node.name}({ast.unparse(node.args)}):\n    """{told.splitlines()[0]}"""\n', "completion": body}


def _load(paths: Sequence[str]) -> list[Row]:
    return [row for path in paths for row in data.load(path, name="rows")]


KINDS: dict[str, Callable[..., Iterator[list[Row]]]] = {kind.__name__: kind for kind in (tofu, lume_people, lume_answers, stories, code)}


def split(subjects: Iterable[list[Row]], seed: int = 0) -> dict[str, list[Row]]:
    """Whole subjects in a drawn order, until each set has its rows."""
    left = list(subjects)
    random.Random(seed).shuffle(left)
    found: dict[str, list[Row]] = {}
    for part, count in ROWS.items():
        found[part] = []
        while len(found[part]) < count and left:
            found[part] += [{**row, "group": f"{part} {len(left)}"} for row in left.pop()]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("paths", nargs="*")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for part, rows in split(KINDS[options.kind](*options.paths)).items():
        (options.folder / f"{part}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        print(options.folder / f"{part}.jsonl", len(rows), "rows")


if __name__ == "__main__":
    main()
