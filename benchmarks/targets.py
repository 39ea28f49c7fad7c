"""How near `stop_at: auto` estimates, before training, what true never-seen models show of the forget set.

    python benchmarks/targets.py --bed demo [--beds 0 1 2 3] [--seeds 0 1 2 3 4]
    python benchmarks/targets.py --bed tofu --tofu-beds runs/tofu

Min-K AUC: of the forget set against the holdout, under the never-seen model; and of the estimated targets against
those of the holdout, which a run is stopped at. "estimated" is the mean of the targets that a run starts with, corrected for the holdout shift;
"simple" is that of the holdout's log-probabilities under the memorized model.
"""

import argparse
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from peft_unlearn import data
from peft_unlearn.metrics.membership import auc
from peft_unlearn.model import adapters
from peft_unlearn.training import targets
from runs import demo_bed, tofu_bed


def mean(rows: list[np.ndarray]) -> float:
    return float(np.mean([row.mean() for row in rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bed", choices=("demo", "tofu"), default="demo")
    parser.add_argument("--tofu-beds", type=Path, default=Path("runs/tofu"))
    parser.add_argument("--beds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    make = demo_bed if options.bed == "demo" else tofu_bed(options.tofu_beds)
    print(
        "| test bed | never-seen log p | simple | off by | estimated | off by | row correlation | true AUC | estimated, mean | lowest to highest |"
    )
    print("| --- " * 10 + "|")
    for n in options.beds:
        where = make(n)
        tokenizer = AutoTokenizer.from_pretrained(where.memorized)
        sets = {}
        for name in ("forget", "retain", "holdout"):
            sets[name] = data.tokenize(getattr(where, name), tokenizer, 256, name=name).rows
        ends = {name: targets.end_lengths(tokenizer, rows) for name, rows in sets.items()}
        found = {}
        for which in ("memorized", "never_seen"):
            model = adapters.load_base(getattr(where, which), quantization_config=where.quantization_config)
            found[which] = {name: targets.scored(model, tokenizer, sets[name], 40) for name in ("forget", "holdout")}
        now, twin = found["memorized"]["holdout"], found["never_seen"]
        retain, text = list(sets["retain"]), targets.known(sets["retain"], sets["forget"])
        estimates, aucs = [], []
        for seed in options.seeds:
            forget, holdout = (
                targets.estimated(sets[name], retain, text, sets["holdout"], now, seed=seed) for name in ("forget", "holdout")
            )
            drift = targets.min_ks(now, ends["holdout"]).mean() / targets.min_ks(holdout, ends["holdout"]).mean()
            estimates.append([drift * row for row in forget])
            aucs.append(float(auc(targets.min_ks(forget, ends["forget"]), targets.min_ks(holdout, ends["holdout"]))))
        true, simple, estimate = mean(twin["forget"]), mean(now), float(np.mean([mean(rows) for rows in estimates]))
        rows = [np.mean([rows[i].mean() for rows in estimates]) for i in range(len(sets["forget"]))]
        correlation = np.corrcoef(rows, [row.mean() for row in twin["forget"]])[0, 1]
        beside = float(auc(*(targets.min_ks(twin[name], ends[name]) for name in ("forget", "holdout"))))
        print(
            f"| {n} | {true:.2f} | {simple:.2f} | {simple / true - 1:+.0%} | {estimate:.2f} | {estimate / true - 1:+.0%} | {correlation:.2f} "
            f"| {beside:.3f} | {np.mean(aucs):.3f} | {min(aucs):.3f} to {max(aucs):.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
