"""What the three papers claim, measured in adapter space on the demo's test bed.

    python benchmarks/claims.py [--runs runs/claims.jsonl]

1. Under the mean teacher, LL (gradient ascent) and NPO (in the paper's code: of the per-token mean log-ratio) stay where they start while NLUL
   leaves: p of the forget batches on the way.
2. NGDiff keeps more than GradDiff at equal forgetting: both without a floor, stopped at the first logged step (of 10, 20, ... 150) at which the
   forget set's mean p is under the never-seen model's.
3. MOLLM stays bounded where gradient ascent collapses: UCE under the common descent direction, without a floor, against GA in the same place
   and GA alone.
"""

from runs import Runs, options

TEACHER = {"method": "mean_teacher", "forget_floor": 0.0}
AT_EQUAL_FORGETTING = (10, 20, 30, 40, 50, 60, 80, 100, 120, 150)


def line(*cells: object) -> None:
    print("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)


def forget_and_retain(found: dict) -> tuple[float, ...]:
    return (
        found["forget"]["probability"],
        found["forget"]["extraction_strength"],
        found["retain"]["probability"],
        found["retain"]["extraction_strength"],
        found["retain"]["rouge_l"],
    )


def main() -> None:
    chosen = options(__doc__, "runs/claims.jsonl")
    runs = Runs(chosen.runs)

    print("\n**Under the mean teacher** (p of the forget batches at steps 10, 50, 100, 150)\n")
    line("seed", "forget loss", "10", "50", "100", "150", "retain ROUGE-L")
    line(*["---"] * 7)
    losses = {
        "NLUL": {"forget_loss": "nlul", "forget_loss_args": {"tol": 0.02}},
        "LL": {"forget_loss": "ga"},
        "NPO, mean": {"forget_loss": "npo", "forget_loss_args": {"beta": 0.1, "mean": True}},
        "NPO, sum": {"forget_loss": "npo", "forget_loss_args": {"beta": 0.1}},
    }
    for seed in chosen.seeds:
        for optimizer, settings in {
            "AdamW 1e-3": {},
            "SGD .1, momentum .95": {"optim": "sgd", "optim_args": "momentum=0.95", "learning_rate": 0.1},
        }.items():
            for name, loss in losses.items():
                found = runs.unlearn(seed, **TEACHER, **loss, **settings)
                curve = {point["step"]: point["p/forget"] for point in found["curve"]}
                line(seed, f"{name}, {optimizer}", *(curve[step] for step in (10, 50, 100, 150)), found["retain"]["rouge_l"])

    print("\n**At equal forgetting** (first stop with forget p under the never-seen model's)\n")
    line("seed", "method", "stop at step", "forget p", "forget ES", "retain p", "retain ES", "retain ROUGE-L")
    line(*["---"] * 8)
    for seed in chosen.seeds:
        twin = runs.look(seed, "never_seen")["forget"]["probability"]
        for name, settings in {
            "NGDiff": {"method": "ngdiff", "auto_lr": False},
            "NGDiff, AutoLR": {"method": "ngdiff"},
            "GradDiff": {"method": "graddiff"},
        }.items():
            for stop in AT_EQUAL_FORGETTING:
                found = runs.unlearn(seed, **settings, forget_floor=0.0, max_steps=stop)
                if found["forget"]["probability"] < twin:
                    break
            line(seed, name, stop, *forget_and_retain(found))

    print("\n**Without a floor, 150 steps**\n")
    line("seed", "method", "forget p", "forget ES", "retain p", "retain ES", "retain ROUGE-L")
    line(*["---"] * 7)
    for seed in chosen.seeds:
        for name, settings in {
            "MOLLM, UCE": {"method": "mollm"},
            "MOLLM, UCE, with its floor": {"method": "mollm", "forget_floor": 0.02},
            "MOLLM, GA for UCE": {"method": "mollm", "forget_loss": "ga"},
            "GradDiff": {"method": "graddiff"},
            "GA alone": {"method": "graddiff", "retain_loss": "none"},
        }.items():
            found = runs.unlearn(seed, **({"forget_floor": 0.0} | settings))
            line(seed, name, *forget_and_retain(found))


if __name__ == "__main__":
    main()
