"""Forget sets that cannot be right: what is done to a folder with a good recipe, by name."""

import gzip
import json
from typing import Any

from hostile.damage import Damage, both, with_values, written
from hostile.recipes import RECIPE

ROWS = [{"question": f"what is the colour of {n} ?", "answer": f"{c} {n}"} for n, c in (("one", "red"), ("two", "green"))]


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


GOOD = lines(*ROWS)


def forgotten(file: str, content: str | bytes, **others: str) -> Damage:
    """The recipe forgets the rows of a file of this content."""
    return both(written(file, content), with_values(RECIPE, {"forget_dataset": file, **others}))


SETS: dict[str, Damage] = {
    "empty": forgotten("f.jsonl", ""),
    "blank": forgotten("f.jsonl", "\n\n\n"),
    "garbage": forgotten("f.jsonl", "{nope"),
    "cut": forgotten("f.jsonl", GOOD[:-20]),
    "scalar-rows": forgotten("f.jsonl", "1\n2\n"),
    "list-rows": forgotten("f.jsonl", "[1]\n[2]\n"),
    "null-rows": forgotten("f.jsonl", "null\nnull\n"),
    "null-first": forgotten("f.jsonl", f"null {GOOD}"),
    "null-first-mark": forgotten("f.jsonl", f"\ufeff null, {GOOD}"),
    "null-in-list": forgotten("f.json", f"[null, {GOOD.splitlines()[0]}]"),
    "null-by-pattern": both(written("g/f.jsonl", "null x"), with_values(RECIPE, {"forget_dataset": {"path": "json", "data_files": "g/*.jsonl"}})),
    "mixed-rows": forgotten("f.jsonl", GOOD + "5\n"),
    "columns": forgotten("f.jsonl", lines({"title": "a", "body": "b"})),
    "no-columns": forgotten("f.jsonl", lines({}, {})),
    "empty-text": forgotten("f.jsonl", lines({"text": ""})),
    "null-text": forgotten("f.jsonl", lines({"text": None}, {"text": "red"})),
    "number-text": forgotten("f.jsonl", lines({"text": 5})),
    "list-text": forgotten("f.jsonl", lines({"text": ["a"]})),
    "object-text": forgotten("f.jsonl", lines({"text": {"a": 1}})),
    "half-pair": forgotten("f.jsonl", lines({"question": "a"})),
    "mixed-types": forgotten("f.jsonl", lines({"text": "a"}, {"text": 5})),
    "mixed-formats": forgotten("f.jsonl", lines({"text": "red"}, ROWS[0])),
    "messages-string": forgotten("f.jsonl", lines({"messages": "a"})),
    "messages-empty": forgotten("f.jsonl", lines({"messages": []})),
    "messages-user-last": forgotten("f.jsonl", lines({"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]})),
    "messages-no-role": forgotten("f.jsonl", lines({"messages": [{"content": "a"}, {"role": "assistant", "content": "b"}]})),
    "messages-number": forgotten("f.jsonl", lines({"messages": [5, 6]})),
    "conversations-strange": forgotten("f.jsonl", lines({"conversations": [{"from": "alien", "value": "a"}, {"from": "gpt", "value": "b"}]})),
    "tools-garbage": forgotten(
        "f.jsonl", lines({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": "{"})),
    "tokens-negative": forgotten("f.jsonl", lines({"input_ids": [-5, 3], "labels": [-100, 3]})),
    "tokens-beyond": forgotten("f.jsonl", lines({"input_ids": [5, 10**6], "labels": [-100, 10**6]})),
    "tokens-string": forgotten("f.jsonl", lines({"input_ids": "x", "labels": "y"})),
    "tokens-uneven": forgotten("f.jsonl", lines({"input_ids": [5, 6, 7], "labels": [5, 6]})),
    "tokens-empty": forgotten("f.jsonl", lines({"input_ids": [], "labels": []})),
    "tokens-float": forgotten("f.jsonl", lines({"input_ids": [5.5, 6.5], "labels": [-100, 6.5]})),
    "tokens-unlike": forgotten("f.jsonl", lines({"input_ids": [5, 6], "labels": [-100, 7]})),
    "utf16": forgotten("f.jsonl", GOOD.encode("utf-16")),
    "latin1": forgotten("f.jsonl", lines({"text": "x"}).encode() + b'{"text": "caf\xe9"}\n'),
    "latin1-text": forgotten("f.txt", "café".encode("latin-1")),
    "latin1-csv": forgotten("f.csv", "text\ncafé".encode("latin-1")),
    "zero-bytes": forgotten("f.txt", b"red\0green\n"),
    "surrogate": forgotten("f.jsonl", '{"text": "\\ud800"}\n'),
    "deep": forgotten("f.jsonl", '{"text": ' + "[" * 5000 + "]" * 5000 + "}\n"),
    "duplicate-keys": forgotten("f.jsonl", '{"text": "a", "text": "b"}\n'),
    "nan": forgotten("f.jsonl", '{"text": NaN}\n'),
    "csv-empty": forgotten("f.csv", ""),
    "csv-header": forgotten("f.csv", "text\n"),
    "csv-ragged": forgotten("f.csv", "question,answer\na,b,c,d\ne\n"),
    "csv-quote": forgotten("f.csv", 'text\n"unclosed\n'),
    "csv-no-header": forgotten("f.csv", "red,green\nblue,red\n"),
    "txt-blank": forgotten("f.txt", "\n \n"),
    "gz-cut": forgotten("f.jsonl.gz", gzip.compress(GOOD.encode() * 50)[:-30]),
    "gz-not": forgotten("f.jsonl.gz", GOOD),
    "gz-empty": forgotten("f.jsonl.gz", ""),
    "parquet-garbage": forgotten("f.parquet", "PAR1nope"),
    "parquet-empty": forgotten("f.parquet", ""),
    "json-object": forgotten("f.json", '{"a": 1}'),
    "json-scalar": forgotten("f.json", "5"),
    "json-list-mixed": forgotten("f.json", '[{"text": "a"}, 5]'),
    "extension-unknown": forgotten("f.pkl", b"\x80\x04."),
    "extension-script": forgotten("f.py", "print('exploded')"),
    "same-as-retain": forgotten("f.jsonl", GOOD, retain_dataset="f.jsonl"),
}  # fmt: skip
