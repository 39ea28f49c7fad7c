"""Do the three methods, at their defaults, reach the demo's goals over three seeds?

    python benchmarks/demo_goals.py [--runs runs/demo_goals.jsonl]

Goals: extraction strength of the forget set within .05 of the never-seen model's, ROUGE-L of the retain set at least .95 of before; and, of the
test bed itself, that NF4 keeps at least .95 of what the model memorized.
"""

from runs import Runs, options

METHODS = ("mean_teacher", "ngdiff", "mollm")


def main() -> None:
    chosen = options(__doc__, "runs/demo_goals.jsonl")
    runs = Runs(chosen.runs)
    print("| seed | model | forget ES | forget p | forget ROUGE-L | retain ES | retain ROUGE-L | goals |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for seed in chosen.seeds:
        before, never = runs.look(seed, "memorized"), runs.look(seed, "never_seen")
        after = {method: runs.unlearn(seed, method=method) for method in METHODS}
        for name, found in {"before (NF4)": before, "never-seen": never, **after}.items():
            forget, retain = found["forget"], found["retain"]
            verdict = ""
            if name in METHODS:
                near = abs(forget["extraction_strength"] - never["forget"]["extraction_strength"]) <= 0.05
                kept = retain["rouge_l"] >= 0.95 * before["retain"]["rouge_l"]
                verdict = "both" if near and kept else "missed: " + ", ".join(n for n, ok in (("ES", near), ("ROUGE-L", kept)) if not ok)
            elif name.startswith("before"):
                verdict = "kept by NF4" if min(forget["extraction_strength"], retain["extraction_strength"]) >= 0.95 else "lost by NF4"
            print(
                f"| {seed} | {name} | {forget['extraction_strength']:.3f} | {forget['probability']:.4f} | {forget['rouge_l']:.3f} "
                f"| {retain['extraction_strength']:.3f} | {retain['rouge_l']:.3f} | {verdict} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
