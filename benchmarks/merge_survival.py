"""What is left of a run's forgetting after each way to merge it.

    make demo
    python benchmarks/merge_survival.py runs/demo/mean_teacher runs/demo/ngdiff runs/demo/mollm

For each adapter and way: the median α over weights and the α of all as one, and what the written folder shows of the forget and the retain set.
Merged folders are deleted afterwards.
"""

import argparse
import tempfile
from pathlib import Path

import yaml

from peft_unlearn import merging
from peft_unlearn.config import recipe
from peft_unlearn.merging.survival import median_alpha, total
from peft_unlearn.util.numbers import show
from peft_unlearn.workflows import merged

WAYS = {
    "onto the original": {},
    "the same, in bf16": {"dtype": "bf16"},
    "then int8": {"quantize": "int8"},
    "then NF4": {"quantize": "nf4"},
    "onto the dequantized": {"onto": "dequantized"},
    "in place into NF4": {"onto": "dequantized", "quantize": "nf4", "force": True},
}
COLUMNS = [("forget", "extraction_strength"), ("forget", "loss"), ("retain", "extraction_strength"), ("retain", "rouge_l")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", nargs="+", type=Path, help="output folders of runs")
    options = parser.parse_args()
    print("| | ‖ΔW‖/‖W‖ | median α | α | " + " | ".join(f"{name} {metric.replace('_', ' ')}" for name, metric in COLUMNS) + " |")
    print("| --- " * (4 + len(COLUMNS)) + "|")
    for adapter in options.adapters:
        settings = yaml.safe_load((adapter / recipe.FILE).read_text(encoding="utf-8"))
        for i, (way, arguments) in enumerate(WAYS.items()):
            with tempfile.TemporaryDirectory() as folder:
                result = merging.merge(adapter, Path(folder) / "merged", trained=merged.trained_on(settings), **arguments)
                report = merged.evaluate(result.folder, adapter, settings)
            if i == 0:
                for view in ("before", "adapter", "never_seen"):
                    print(f"| {adapter.name}: {view.replace('_', '-')} | | | | {cells(report, view)} |")
            whole = total(result.survival.values())
            alphas = f"{median_alpha(result.survival):.3f} | {whole.alpha:.3f}"
            print(f"| {adapter.name}: {way} | {show(whole.relative)} | {alphas} | {cells(report, 'after')} |", flush=True)


def cells(report: dict, view: str) -> str:
    found = [report["results"][name].get(view, {}).get(metric) for name, metric in COLUMNS]
    return " | ".join("" if entry is None else show(entry["mean"]) for entry in found)


if __name__ == "__main__":
    main()
