"""Is the demo's default method FORGOTTEN AS TESTED whatever the seed, the number of threads and the order of sums?

    python benchmarks/demo_seeds.py run --seeds 0 1 2 --threads 1 2 --orders given shaken
    python benchmarks/demo_seeds.py table

A shaken model has the neurons of each MLP in another order, 64 by 64, so that NF4 rounds every weight as before: the same function, and every sum
over neurons in another order. Each run is a line of --runs when it ends, and is not made again.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_unlearn.demo import model
from peft_unlearn.workflows import DemoRequest, demo

METHOD, BLOCK = "mollm", 64
SHOWN = ("extraction_strength", "rouge_l", "degenerate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("run", "table"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--orders", nargs="+", choices=("given", "shaken"), default=["given"])
    parser.add_argument("--runs", type=Path, default=Path("runs/demo_seeds.jsonl"))
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.runs.read_text().splitlines()] if options.runs.exists() else []
    if options.do == "table":
        print("\n".join(table(lines)))
        return
    options.runs.parent.mkdir(parents=True, exist_ok=True)
    done = [line["run"] for line in lines]
    for order, threads, seed in product(options.orders, options.threads, options.seeds):
        run = {"seed": seed, "threads": threads, "order": order}
        if run not in done:
            line = made(run)
            with options.runs.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            print(*table([line])[2:], flush=True)


def made(run: dict[str, Any]) -> dict[str, Any]:
    """One demo, and what it came to."""
    torch.set_num_threads(run["threads"])
    given = model.train_models
    with tempfile.TemporaryDirectory() as scratch:
        if run["order"] == "shaken":
            model.train_models = lambda *args: model.Models(
                *(shaken(folder, Path(scratch), run["seed"]) for folder in _folders(given(*args)))
            )
        try:
            found = demo(DemoRequest(output=f"{scratch}/demo", method=(METHOD,), seed=run["seed"])).runs[METHOD]
        finally:
            model.train_models = given
    sets = {view: {name: found.views[view]["forget"][name]["mean"] for name in SHOWN} for view in ("after", "never_seen")}
    answers = found.views["after"]["forget"]["degenerate"]["rows"]
    return {"run": run, **found.report["verdict"], "steps": found.report["run"]["steps"], **sets, "rows": len(answers)}


def _folders(models: model.Models) -> Iterator[Path]:
    yield models.memorized
    yield models.never_seen


def shaken(folder: Path, scratch: Path, seed: int) -> Path:
    """The same model with each MLP's neurons in another order."""
    found = AutoModelForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    for layer in found.model.layers:
        size = layer.mlp.gate_proj.out_features
        order = torch.cat([start + torch.randperm(BLOCK, generator=generator) for start in range(0, size, BLOCK)])
        for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
            linear.weight.data = linear.weight.data[order]
        layer.mlp.down_proj.weight.data = layer.mlp.down_proj.weight.data[:, order]
    output = scratch / f"shaken-{folder.name}"
    found.save_pretrained(output)
    AutoTokenizer.from_pretrained(folder).save_pretrained(output)
    return output


def table(lines: list[dict[str, Any]]) -> list[str]:
    """A line for each run; in brackets the never-seen model."""
    head = ["seed", "threads", "order", "verdict", "steps", *(name.replace("_", " ") for name in SHOWN), "reasons"]
    found = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for line in lines:
        near = [f"{line['after'][name]:.3f} ({line['never_seen'][name]:.3f})" for name in SHOWN]
        reasons = "" if line["word"] == "FORGOTTEN AS TESTED" else " ".join(line["reasons"][:2])
        found.append("| " + " | ".join([*map(str, line["run"].values()), line["word"], str(line["steps"]), *near, reasons]) + " |")
    return found


if __name__ == "__main__":
    main()
