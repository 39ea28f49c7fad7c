"""The verdict on planted cases: forgetting of every sort, planted exactly in tiny models, and whether the word and its first reason are right.

    python benchmarks/planted.py [--kinds authors text ...] [--sizes 3 12 48] [--output runs/planted.jsonl]
    python benchmarks/planted.py --all                      # the whole grid in place of the balanced list of 100
    python benchmarks/planted.py --rows-from FOLDER ...     # also kinds of others: forget.jsonl, retain.jsonl, holdout.jsonl in each folder

Models are trained when they are first needed (half a minute each) and kept in --cache. Exits with 1 where a verdict is forbidden: anything but a
retrained twin that is FORGOTTEN AS TESTED, or more than one twin in twenty condemned. --strict: or where any word or first reason is not right.
"""

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers.utils import logging

from beds import kinds
from beds.models import Bed
from peft_unlearn.demo.model import default_cache
from planted.behaviors import TWINS
from planted.bench import Bench
from planted.cases import FORGOTTEN, NOT_SHOWN, SIZES, Case, balanced, grid

KINDS = ("authors", "personal", "german", "chat", "text")  # those that the limits of the verdict were chosen on
STATES = ("right", "wrong", "FORBIDDEN")


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    found = [kinds.invented(name) for name in options.kinds] + [kinds.from_folder(folder) for folder in options.rows_from]
    benches = {kind.name: Bench(Bed(kind, options.cache)) for kind in found}
    worded = [
        name for name, bench in benches.items() if "paraphrased_question" in bench.bed.sets["forget"].variants
    ]  # all its models know these
    cases = (grid if options.all else balanced)(list(benches), options.sizes, worded)
    cases = [replace(case, size=min(case.size, len(benches[case.kind].bed.sets["forget"].rows))) for case in cases]  # some kinds have fewer
    if options.behaviors:
        cases = [case for case in cases if case.behavior in options.behaviors]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    print("| case | word | | first reason |\n| --- | --- | --- | --- |")
    lines = []
    with options.output.open("w", encoding="utf-8") as file:
        for case in cases:
            lines.append(judge(case, benches[case.kind]))
            file.write(json.dumps(lines[-1]) + "\n")
            print(
                "| {name} | {word} | {state}{unfit} | {reason} |".format(**lines[-1], unfit=" (reason)" * (not lines[-1]["fits"])),
                flush=True,
            )
    totals(lines)
    sys.exit(failed(lines, options.strict))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="*", choices=kinds.names(), default=list(KINDS))
    parser.add_argument("--rows-from", nargs="+", type=Path, default=[], metavar="FOLDER")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--behaviors", nargs="+", help="only these of the list")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("runs/planted.jsonl"))
    parser.add_argument("--cache", type=Path, default=default_cache().with_name("planted"))
    return parser.parse_args()


def judge(case: Case, bench: Bench) -> dict[str, Any]:
    """The case's line: its word, whether that and the first reason are right, and every number that is of a set."""
    start = time.perf_counter()
    made = bench.report(case)
    word, reason = made["verdict"]["word"] or NOT_SHOWN, made["verdict"]["reasons"][0]
    means = {
        f"{name}/{view}": {metric: entry["mean"] for metric, entry in entries.items()}
        for name, views in made["results"].items()
        for view, entries in views.items()
    }
    return {
        **vars(case),
        "name": case.name,
        "word": word,
        "state": case.judged(word),
        "fits": case.reason_fits(word, reason),
        "reason": reason,
        "seconds": round(time.perf_counter() - start, 2),
        "verdict": made["verdict"],
        "means": means,
    }


def totals(lines: list[dict[str, Any]]) -> None:
    print("\n| behavior | cases | " + " | ".join(STATES) + " | reason not | words |\n" + "| --- " * (4 + len(STATES)) + "|")
    for behavior in [*dict.fromkeys(line["behavior"] for line in lines), ""]:
        of = [line for line in lines if behavior in (line["behavior"], "")]
        states, words = Counter(line["state"] for line in of), Counter(line["word"] for line in of)
        counts = " | ".join(str(states[state]) for state in STATES)
        said = ", ".join(f"{count} {word}" for word, count in words.most_common())
        print(f"| {behavior or 'all'} | {len(of)} | {counts} | {sum(not line['fits'] for line in of)} | {said} |")
    twins = [line for line in lines if line["behavior"] == TWINS and line["size"] >= max(SIZES) and reference(line)]
    print(f"\nOf {len(twins)} twins with rows that suffice {sum(line['word'] == FORGOTTEN for line in twins)} pass.")
    print(f"{sum(line['seconds'] for line in lines):.0f} s")


def reference(line: dict[str, Any]) -> bool:
    return bool(line["never_seen"] or line["holdout"])


def failed(lines: list[dict[str, Any]], strict: bool) -> bool:
    """Whether something passes that must not, or twins do not where they must, but for one in twenty."""
    twins = [line for line in lines if line["behavior"] == TWINS]
    lost = sum(line["state"] != "right" for line in twins)
    others = [line for line in lines if line["behavior"] != TWINS]
    forbidden = any(line["state"] == "FORBIDDEN" for line in others) or lost > len(twins) / 20
    return forbidden or (strict and any(line["state"] != "right" or not line["fits"] for line in others))


if __name__ == "__main__":
    main()
