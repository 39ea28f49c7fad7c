"""Where the methods' defaults come from: each key moved from its default, on the demo's test bed or on real input.

    python benchmarks/defaults.py [--real runs/real_input] [--only "default|learning_rate"] [--runs runs/defaults.jsonl]

One seed, 150 steps. `--real` takes the folder that benchmarks/real_input.py wrote.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from runs import Runs, demo_bed, real_bed

SGD = {"optim": "sgd", "optim_args": "momentum=0.95"}
GRID: dict[str, dict[str, dict[str, Any]]] = {
    "mean_teacher": {
        "default": {},
        "learning_rate 5e-4": {"learning_rate": 5e-4},
        "learning_rate 2e-3": {"learning_rate": 2e-3},
        "SGD .03": SGD | {"learning_rate": 0.03},
        "SGD .1": SGD | {"learning_rate": 0.1},
        "SGD .1, damping 5": SGD | {"learning_rate": 0.1, "damping": 5.0},
        "SGD .3": SGD | {"learning_rate": 0.3},
        "damping .1": {"damping": 0.1},
        "damping 5": {"damping": 5.0},
        "teacher_decay .98": {"teacher_decay": 0.98},
        "teacher_decay .999": {"teacher_decay": 0.999},
        "tol .1": {"forget_loss_args": {"tol": 0.1}},
        "tol .002": {"forget_loss_args": {"tol": 0.002}},
        "forget_coef .05": {"forget_coef": 0.05},
        "forget_coef .3": {"forget_coef": 0.3},
        "QKL": {"divergence": "qkl"},
        "floor 0": {"forget_floor": 0.0},
        "floor .05": {"forget_floor": 0.05},
    },
    "ngdiff": {
        "default": {},
        "NLUL": {"forget_loss": "nlul", "forget_loss_args": {"tol": 0.02}},
        "floor 0": {"forget_floor": 0.0},
        "floor .05": {"forget_floor": 0.05},
        "auto_lr_steps 1": {"auto_lr_steps": 1},
    },
    "mollm": {
        "default": {},
        "learning_rate 3e-4": {"learning_rate": 3e-4},
        "learning_rate 2e-3": {"learning_rate": 2e-3},
        "AutoLR": {"auto_lr": True},
        "NLUL": {"forget_loss": "nlul", "forget_loss_args": {"tol": 0.02}},
        "floor 0": {"forget_floor": 0.0},
        "floor .05": {"forget_floor": 0.05},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="runs/defaults.jsonl")
    parser.add_argument("--real", type=Path)
    parser.add_argument("--only", default="", help="a regular expression of the changes to make")
    options = parser.parse_args()
    runs = Runs(options.runs, demo_bed if options.real is None else real_bed(options.real))
    print("| method | changed | forget p | forget ES | retain p | retain ES | retain ROUGE-L | last rate |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in ("memorized", "never_seen"):
        print_row(name, "", runs.look(0, name), "")
    for method, changes in GRID.items():
        for name, settings in changes.items():
            if not re.search(options.only, name):
                continue
            found = runs.unlearn(0, method=method, **settings)
            print_row(method, name, found, f"{found['lr']:.1e}")


def print_row(method: str, changed: str, found: dict[str, Any], rate: str) -> None:
    forget, retain = found["forget"], found["retain"]
    print(
        f"| {method} | {changed} | {forget['probability']:.4f} | {forget['extraction_strength']:.3f} "
        f"| {retain['probability']:.3f} | {retain['extraction_strength']:.3f} | {retain['rouge_l']:.3f} | {rate} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
