"""Membership: whether the forget rows still look as if the model had been trained on them, beside holdout rows of their kind.

Every AUC here is the chance that a forget row looks more like a member than a holdout row does: 1 where the forget rows look like members,
.5 where nobody can tell. It reads in two directions. What a model that never saw the forget set shows is the target (.5 if the two sets are
of one kind, but they seldom are); above it something is left, and below it the forget rows stand out as burnt out, which is
over-forgetting, and itself tells an attacker which texts were forgotten.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from peft_unlearn.metrics.results import Evaluation, Result, not_computed
from peft_unlearn.metrics.statistics import bootstrap

# Metric -> sign with which it grows for a member.
SIGNS = {"loss": -1.0, "zlib": -1.0, "min_k": 1.0, "min_k_pp": 1.0}

FEWEST = 2  # rows a side


def auc(members: np.ndarray, others: np.ndarray) -> np.ndarray:
    """P(member > other) + P(member = other) / 2 over all pairs: (..., n), (..., m) -> (...). NaN where there is one among the values.

    By ranks: the Mann-Whitney U of the members divided by n m, in n log n.
    """
    n, m = members.shape[-1], others.shape[-1]
    ranks = rankdata(np.concatenate([members, others], axis=-1), axis=-1)[..., :n]
    return (ranks.sum(-1) - n * (n + 1) / 2) / (n * m)


def membership(forget: Evaluation, holdout: Evaluation) -> dict[str, Result]:
    """`loss_auc`, `zlib_auc`, `min_k_auc` and `min_k_pp_auc` of the forget rows as members and the holdout rows as others.

    Each result is one of the sets as a whole: no rows, n the measured rows of both, and a bootstrap interval over both sides' rows. With
    fewer than two rows on a side, or numbers that are not finite, the mean is NaN and there is a reason.
    """
    return {f"{name}_auc": _result(sign, forget[name]["rows"], holdout[name]["rows"]) for name, sign in SIGNS.items()}


def _result(sign: float, forget: Sequence[float | None], holdout: Sequence[float | None]) -> Result:
    members, others = (sign * np.array([value for value in rows if value is not None]) for rows in (forget, holdout))
    if min(len(members), len(others)) < FEWEST:
        return not_computed(f"{len(members)} forget and {len(others)} holdout rows have a value, and each side needs {FEWEST}")
    lost = int(np.isnan(members).sum() + np.isnan(others).sum())
    if lost:
        return not_computed(f"the model's numbers are not finite in {lost} of {len(members) + len(others)} rows")
    interval = list(bootstrap(auc, members, others))
    return {"mean": float(auc(members, others)), "n": len(members) + len(others), "rows": [], "interval": interval}


def priv_leak(auc: float, never_seen: float = 0.5) -> float:
    """MUSE's PrivLeak, (A - A_r) / A_r * 100, from AUCs of Min-K as `membership` gives them: of a model, and of one that never saw the set.

    MUSE's A counts the other way, a forget row that looks less like a member than a holdout row, so A = 1 - `auc`, which OpenUnlearning
    computes as well: -100 where the forget rows all look like members and the never-seen model shows .5, 0 where nothing is left, above 0
    where they are burnt out. NaN or inf where A_r is 0. Source: MUSE (arXiv 2407.06460), section 3.
    """
    a, a_never_seen = np.float64(1 - auc), np.float64(1 - never_seen)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float((a - a_never_seen) / a_never_seen * 100)
