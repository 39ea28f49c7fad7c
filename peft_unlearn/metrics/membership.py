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
from peft_unlearn.metrics.statistics import auc_estimate
from peft_unlearn.util.registry import metric

# Metric -> sign with which it grows for a member.
SIGNS = {"loss": -1.0, "zlib": -1.0, "min_k": 1.0, "min_k_pp": 1.0}

FEWEST = 2  # rows a side


@metric(direction="never_seen", family=True)
def auc(members: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How well a number tells forget from holdout rows: .5 not at all, 1 as seen in training, below .5 as pushed away.

    P(member > other) + P(member = other) / 2 over all pairs: (..., n), (..., m) -> (...). NaN where there is one among the values.

    By ranks: the Mann-Whitney U of the members divided by n m, in n log n.
    """
    n, m = members.shape[-1], others.shape[-1]
    ranks = rankdata(np.concatenate([members, others], axis=-1), axis=-1)[..., :n]
    chances: np.ndarray = (ranks.sum(-1) - n * (n + 1) / 2) / (n * m)
    return chances


def membership(forget: Evaluation, holdout: Evaluation) -> dict[str, Result]:
    """`loss_auc`, `zlib_auc`, `min_k_auc` and `min_k_pp_auc` of the forget rows as members and the holdout rows as others.

    Each result is one of the sets as a whole: no rows, n the measured rows of both, and DeLong's interval over both sides' rows. With
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
    found = auc_estimate(members, others)
    return {"mean": found.mean, "n": found.n, "rows": [], "interval": [found.low, found.high]}
