"""Does the automatic learning rate end where the best fixed rate ends, wherever it starts?

    python benchmarks/auto_lr.py [--runs runs/auto_lr.jsonl]

NGDiff on the demo's test bed: nine fixed rates, and AutoLR from 1e-6, 1e-4 and 1e-1. A run's score is what it kept, ROUGE-L of the retain set, times
what it forgot, 1 - |ES - ES of the never-seen model| on the forget set.
"""

from runs import Runs, options

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
STARTS = (1e-6, 1e-4, 1e-1)


def main() -> None:
    chosen = options(__doc__, "runs/auto_lr.jsonl")
    runs = Runs(chosen.runs)
    print("| seed | rate | forget ES | retain ES | retain ROUGE-L | last rate | score | of the best fixed |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for seed in chosen.seeds:
        target = runs.look(seed, "never_seen")["forget"]["extraction_strength"]

        def score(found: dict, target: float = target) -> float:
            return found["retain"]["rouge_l"] * (1 - abs(found["forget"]["extraction_strength"] - target))

        fixed = {f"fixed {rate:g}": runs.unlearn(seed, method="ngdiff", auto_lr=False, learning_rate=rate) for rate in RATES}
        auto = {f"AutoLR from {rate:g}": runs.unlearn(seed, method="ngdiff", learning_rate=rate) for rate in STARTS}
        best = max(map(score, fixed.values()))
        for name, found in (fixed | auto).items():
            print(
                f"| {seed} | {name} | {found['forget']['extraction_strength']:.3f} | {found['retain']['extraction_strength']:.3f} "
                f"| {found['retain']['rouge_l']:.3f} | {found['lr']:.1e} | {score(found):.3f} | {score(found) / best:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
