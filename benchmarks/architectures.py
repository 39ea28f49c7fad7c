"""Every causal architecture of transformers, tiny and of random weights, through train, evaluate, audit, plan and merge.

    python benchmarks/architectures.py run [NAME ...]      # those missing in benchmarks/results/architectures.jsonl; names are made again
    python benchmarks/architectures.py run --steps forward # all of them, a step alone; what was known of others stays
    python benchmarks/architectures.py table               # docs/reference/architectures.md

Each is made in a process of its own, with a time limit. Its config is the architecture's default, in which the fields that make a model large are
made small by their names (`beds/small_configs.py`). Beside the five commands it is seen that logits taken a chunk at a time are those of a plain
forward, and that the merged folder says what PEFT says with the adapter on its base, both to 1e-4 of the largest logit.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/architectures.jsonl"
PAGE = ROOT / "docs/reference/architectures.md"
VERSION = importlib.metadata.version("transformers")
SECONDS = 600


def apart(name: str, wanted: Sequence[str]) -> dict[str, Any]:
    """What came of an architecture in a process of its own, that may crash or hang."""
    from beds import tiny_architectures

    with tempfile.TemporaryDirectory() as folder:
        process = multiprocessing.get_context("fork").Process(target=tiny_architectures.one, args=(name, folder, wanted))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        file = Path(folder) / "result.json"
        if file.is_file():
            found: dict[str, Any] = json.loads(file.read_text())
            return found
        return {"name": name, "class": tiny_architectures.CLASSES[name], "steps": {"small": f"failed: exit {process.exitcode}"}}


def read() -> dict[str, dict[str, Any]]:
    """The result of each architecture."""
    lines = RESULTS.read_text().splitlines() if RESULTS.is_file() else []
    return {entry["name"]: entry for entry in map(json.loads, lines)}


def write(found: dict[str, dict[str, Any]]) -> None:
    partial = RESULTS.with_suffix(".partial")
    partial.write_text("".join(json.dumps(found[name]) + "\n" for name in sorted(found)))
    partial.rename(RESULTS)


def run(names: list[str], wanted: Sequence[str]) -> None:
    from beds import tiny_architectures  # which takes long to import, and the table does without

    there = read()
    if not names:
        names = [n for n in sorted(tiny_architectures.CLASSES) if n not in there or not ended(there[n], wanted)]
    tiny_architectures.warm()
    for name in names:
        entry = apart(name, wanted)
        before = there.get(name, {}).get("steps", {})
        entry["steps"] = {step: word for step, word in before.items() if step not in wanted and step in STEPS} | entry["steps"]
        bad = {step: word for step, word in entry["steps"].items() if word != "works"}
        print(f"{name}: {bad or 'works'} ({entry.pop('seconds', 0)} s)", *entry.pop("tracebacks", {}).values(), sep="\n", flush=True)
        there[name] = entry | {"transformers": VERSION}
        write(there)


def ended(entry: dict[str, Any], wanted: Sequence[str]) -> bool:
    """Whether there is nothing more to do."""
    found = entry["steps"]
    return "small" in found or all(step in found for step in wanted) or ("train" in found and found["train"] != "works")


COMMANDS = ("train", "evaluate", "audit", "plan", "merge")
STEPS = ("forward", *COMMANDS)
HEAD = """# Architectures

Every causal architecture that transformers {version} lists, as a tiny model of random weights, through train, evaluate, audit, plan and
merge at their defaults. `python benchmarks/architectures.py run` makes the models and takes each through all of it (some four seconds
each), and the same with `table` makes this page of what came of it, which stands in `benchmarks/results/architectures.jsonl`.

Of {all} architectures {small} could be made small. {tried} of these were taken through every command. {works} work in all of them:
log-probabilities are those of a plain forward, and the merged folder says what PEFT says with the adapter on its base, both to 1e-4 of the
largest logit. {refused} are refused by a command or more, each in a sentence, and {failed} end in another way.

*Lens* says whether inner layers can be read with the final norm and the head: `logit_lens` is measured and `logit_lens_coef` trained where
they can, and left out where not. *Packed* says whether training takes rows one behind the other, without padding; {packed} do, and give the
log-probabilities that padded rows have, to 1e-4 of the largest. Others are padded. A tiny model says nothing of how well a large one
forgets. Experts that are stacked in one parameter stay in 16 or 32 bits under `load_in_4bit`; training and `plan` say how much that is.

| architecture | class | lens | packed | what came of it |
| --- | --- | --- | --- | --- |
"""


def said(entry: dict[str, Any]) -> str:
    """What came of an architecture, in a cell."""
    bad: dict[str, list[str]] = {}
    for step, word in entry["steps"].items():
        if word != "works":
            what = "not made small:" if step == "small" else step
            bad.setdefault(word.replace("|", "\\|").replace("\n", " "), []).append(what)
    rest = "works" if ended(entry, STEPS) else f"{' and '.join(entry['steps'])} works, the rest was not tried"
    return "; ".join(f"{', '.join(names)} {word}" for word, names in bad.items()) or rest


def table() -> str:
    """The page of what was found."""
    found = [entry for _, entry in sorted(read().items())]
    small = [entry for entry in found if "parameters" in entry]
    tried = [entry for entry in small if ended(entry, STEPS)]
    works = [entry for entry in small if all(entry["steps"].get(step) == "works" for step in STEPS)]
    failed = [entry for entry in small if any(word.startswith("failed") for word in entry["steps"].values())]
    head = HEAD.format(
        refused=len(tried) - len(works) - len(failed),
        failed=len(failed),
        version=", ".join(sorted({e["transformers"] for e in found})),
        all=len(found),
        small=len(small),
        tried=len(tried),
        works=len(works),
        packed=sum(entry.get("packed", False) for entry in found),
    )
    lines = [
        f"| {e['name']} | {e['class']} | {'yes' if e.get('lens') else 'no'} | {'yes' if e.get('packed') else 'no'} | {said(e)} |"
        for e in found
    ]
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("run", "table"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    options = parser.parse_args()
    if options.do == "run":
        run(options.names, options.steps)
    else:
        PAGE.write_text(table(), encoding="utf-8")
