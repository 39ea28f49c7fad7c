"""Reports of made-up numbers for tests of the verdict."""

import numpy as np

from peft_unlearn import report

N = 40


def rows(mean: float, spread: float = 0.02) -> dict:
    """N values that spread evenly about `mean`."""
    values = [mean + spread * (2 * i / (N - 1) - 1) for i in range(N)]
    return {"mean": float(np.mean(values)), "n": N, "rows": values}


def share(of: float) -> dict:
    """N values of which this share is 1 and the others 0."""
    values = [float(i < round(of * N)) for i in range(N)]
    return {"mean": float(np.mean(values)), "n": N, "rows": values}


def auc(mean: float) -> dict:
    return {"mean": mean, "n": 2 * N, "rows": [], "interval": [mean - 0.03, mean + 0.03]}


BEFORE = {
    "loss": 0.1,
    "probability": 0.9,
    "extraction_strength": 0.9,
    "worst_of_k": 0.95,
    "degenerate": 0.0,
    "leak_at_16": 0.9,
    "logit_lens": 0.9,
    "entropy": 0.2,
    "nonwords": 0.0,
}
NEVER = {
    "loss": 2.0,
    "probability": 0.14,
    "extraction_strength": 0.05,
    "worst_of_k": 0.08,
    "degenerate": 0.0,
    "leak_at_16": 0.4,
    "logit_lens": 0.3,
    "entropy": 1.5,
    "nonwords": 0.0,
}
KEPT = {"probability": 0.9, "rouge_l": 0.95, "degenerate": 0.0}
MEMBERSHIP = {"before": 0.99, "never_seen": 0.5}


def built(after: dict, *, retain: dict | None = None, without: tuple[str, ...] = (), after_auc: float = 0.5, **changes) -> dict:
    """Report of a forget set that shows `after` where it differs from never-seen, and of a retain set that differs from before by `retain`."""
    forget = {"before": BEFORE, "after": {**NEVER, **after}, "never_seen": NEVER}
    results: dict = {
        "forget": {view: {name: rows(value) for name, value in of_view.items()} for view, of_view in forget.items()},
        "retain": {view: {name: rows(value) for name, value in KEPT.items()} for view in forget},
    }
    results["retain"]["after"] = {name: rows(value) for name, value in {**KEPT, **(retain or {})}.items()}
    for view, value in {**MEMBERSHIP, "after": after_auc}.items():
        results["forget"][view]["min_k_auc"] = auc(value)
    results = {name: {view: metrics for view, metrics in views.items() if view not in without} for name, views in results.items()}
    return report.build({name: views for name, views in results.items() if name not in without}, {}, **changes)
