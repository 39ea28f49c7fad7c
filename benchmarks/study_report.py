"""Tables and figures of benchmarks/study.py, from the runs that have ended."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from peft_unlearn.config.methods import OURS
from peft_unlearn.metrics.statistics import mean_estimate

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "study"
import matplotlib.pyplot as plt  # noqa: E402


def within(found: dict[str, Any], never: dict[str, Any]) -> bool:
    """Whether forgetting is as never-seen: loss within 20 % and Min-K AUC within .1 of it, extraction strength not above its interval by .05."""
    forget, other = found["forget"], never["forget"]
    near = abs(forget["loss"] / other["loss"] - 1) <= 0.2 and abs(forget["min_k_auc"] - other["min_k_auc"]) <= 0.1
    return near and forget["extraction_strength"] <= mean_estimate(never["rows"]["extraction_strength"]).high + 0.05


def points(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Where the run ended, and where it was nearest to never-seen, if it came near."""
    return {"end": run["end"], "nearest": run.get("nearest", run["end"])}


def rank(found: dict[str, Any], never: dict[str, Any]) -> tuple[float, float]:
    """Forgetting as never-seen first (by how far it is off in loss, beyond 20 %), then utility."""
    off = abs(found["forget"]["loss"] / never["forget"]["loss"] - 1)
    return (
        -max(0.0, off - 0.2) - max(0.0, abs(found["forget"]["min_k_auc"] - never["forget"]["min_k_auc"]) - 0.1),
        found["retain"]["utility"],
    )


COLUMNS = (
    ("loss / never-seen", lambda f, t: f["forget"]["loss"] / t["forget"]["loss"], ".2f"),
    ("ES", lambda f, t: f["forget"]["extraction_strength"], ".3f"),
    ("EM", lambda f, t: f["forget"]["exact_memorization"], ".3f"),
    ("truth ratio", lambda f, t: f["forget"]["truth_ratio"], ".3f"),
    ("rephrased ES", lambda f, t: f["forget"]["worst_of_k"], ".3f"),
    ("Min-K AUC − never-seen", lambda f, t: f["forget"]["min_k_auc"] - t["forget"]["min_k_auc"], "+.3f"),
    ("retain KL", lambda f, t: f["retain"].get("kl", 0.0), ".4f"),
    ("p99", lambda f, t: f["retain"].get("kl_p99", 0.0), ".3f"),
    ("retain utility", lambda f, t: f["retain"]["utility"], ".4f"),
)


def write(
    studies: dict[str, Any],
    arms: list[str],
    swept: list[str],
    reported: tuple[int, ...],
    choosing: int,
    rates: tuple[float, ...],
    plots: Path | None,
) -> None:
    """Print the tables of every kind of test bed whose runs have ended, and draw forgetting against utility into `plots`."""
    for kind, study in studies.items():
        done = [arm for arm in arms if all(study.has(n, arm, 1.0) for n in reported)]
        best: dict[str, tuple[float, str]] = {arm: (1.0, "end") for arm in done if arm not in swept}
        for arm in set(done) - set(best):
            if all(study.has(choosing, arm, rate) for rate in rates):
                rate, point = best_point(study, arm, choosing, rates)
                if all(study.has(n, arm, rate) for n in reported):
                    best[arm] = rate, point
        print(f"\n### {kind}: where each run of our three methods ends\n")
        landing(study, [arm for arm in done if arm.split()[0] in OURS], reported)
        print(f"\n### {kind}: every method at its defaults, where it ends\n")
        table(study, done, reported, lambda arm: (1.0, "end"))
        if any(arm in swept for arm in best):
            print(f"\n### {kind}: every method at the best of its sweep, where it ends or was nearest to never-seen\n")
            table(study, [arm for arm in done if arm in best], reported, best.get)
        measured = [arm for arm in arms if f"cost {arm}" in study.done]
        if measured:
            print(f"\n### {kind}: what a step takes\n")
            costs(study, measured)
        if plots is not None and done:
            draw(study, kind, done, best, reported, plots)


def best_point(study: Any, arm: str, n: int, rates: tuple[float, ...]) -> tuple[float, str]:
    """Learning rate and point ("end" or "nearest") that rank first on test bed `n`."""
    never = study.whole(n, "never_seen")
    candidates = [(rate, point) for rate in rates for point in ("end", "nearest")]
    return max(candidates, key=lambda c: rank(points(study.arm(n, arm, c[0]))[c[1]], never))


def landing(study: Any, arms: list[str], beds: tuple[int, ...]) -> None:
    print("| test bed | run | steps | log p | never-seen's | off by | Min-K AUC | never-seen's | retain utility | as never-seen |")
    print("| --- " * 10 + "|")
    for n in beds:
        never = study.whole(n, "never_seen")
        for arm in arms:
            end = study.arm(n, arm, 1.0)["end"]
            off = end["forget"]["loss"] / never["forget"]["loss"] - 1
            apart = end["forget"]["min_k_auc"] - never["forget"]["min_k_auc"]
            print(
                f"| {n} | {arm} | {end['step']} | {-end['forget']['loss']:.2f} | {-never['forget']['loss']:.2f} | {off:+.0%} "
                f"| {end['forget']['min_k_auc']:.3f} | {never['forget']['min_k_auc']:.3f} | {end['retain']['utility']:.3f} "
                f"| {'yes' if abs(off) <= 0.2 and abs(apart) <= 0.1 else 'no'} |"
            )


def table(study: Any, arms: list[str], beds: tuple[int, ...], choice: Any) -> None:
    """Means over `beds`, "lowest" the lowest utility of them; "as never-seen" counts those where `within` holds."""
    heads = ["run", "rate", "point", *(head for head, _, _ in COLUMNS), "lowest", "as never-seen"]
    print("| " + " | ".join(heads) + " |")
    print("| --- " * len(heads) + "|")
    lines = []
    for name in ("memorized", "never_seen"):
        found = [(study.whole(n, name), study.whole(n, "never_seen")) for n in beds]
        lines.append((2.0, name.replace("_", "-"), "", "", found))
    for arm in arms:
        rate, point = choice(arm)
        runs = [study.arm(n, arm, rate) for n in beds]
        found = [(points(run)[point], study.whole(n, "never_seen")) for run, n in zip(runs, beds, strict=True)]
        good = sum(within(*pair) for pair in found)
        order = good / len(beds) + min(pair[0]["retain"]["utility"] for pair in found) / 10
        lines.append((order, arm, f"{rate:.2g}", point, found))
    for _, name, rate, point, found in sorted(lines, key=lambda line: -line[0]):
        cells = [format(float(np.mean([value(*pair) for pair in found])), spec) for _, value, spec in COLUMNS]
        lowest = min(pair[0]["retain"]["utility"] for pair in found)
        good = f"{sum(within(*pair) for pair in found)}/{len(found)}"
        print(f"| {name} | {rate} | {point} | {' | '.join(cells)} | {lowest:.4f} | {good} |")


def costs(study: Any, arms: list[str]) -> None:
    """What a step takes, as `study.py cost` measured it."""
    print("| run | CPU seconds a step | peak MB above the loaded model |")
    print("| --- " * 3 + "|")
    for arm in arms:
        found = study.done[f"cost {arm}"]
        print(f"| {arm} | {found['seconds']:.3f} | {found['mb']:.0f} |")


def draw(study: Any, kind: str, arms: list[str], best: dict[str, tuple[float, str]], beds: tuple[int, ...], folder: Path) -> None:
    """Forgetting against utility: a dot for each run, at the best of its sweep where it was swept; the band is never-seen's, 20 % either way."""
    figure, axes = plt.subplots(figsize=(8, 5))
    axes.axvspan(0.8, 1.2, color="0.92")
    for i, arm in enumerate(arms):
        rate, point = best.get(arm, (1.0, "end"))
        found = [(points(study.arm(n, arm, rate))[point], study.whole(n, "never_seen")) for n in beds]
        x = [min(pair[0]["forget"]["loss"] / pair[1]["forget"]["loss"], 4.0) for pair in found]
        y = [pair[0]["retain"]["utility"] for pair in found]
        ours = arm.split()[0] in OURS
        axes.scatter(x, y, s=40 if ours else 22, marker="o" if ours else "x", color=plt.get_cmap("tab20")(i % 20), label=arm)
    axes.set(
        xlabel="loss of the forget set, of never-seen's (4 and more at 4)", ylabel="utility of the retain set", title=f"{kind} test beds"
    )
    axes.legend(fontsize=6, ncol=2, loc="lower left")
    folder.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(folder / f"study_{kind}.svg", metadata={"Date": None})
    plt.close(figure)
