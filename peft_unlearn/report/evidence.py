"""What a report's rows say of the forget set beside a model that never saw it: estimates with intervals, for `criteria` to compare with thresholds.

The reference is what a model shows of the forget rows that never saw them:

- "paired": the view "never_seen", row by row. Where it is the base below a user's adapter, it never had that fine-tune either, which changes what
  unseen text of this kind looks like; it is moved by what the holdout shows of that. The loss always is, by the factor that a run's targets move by,
  and other wordings are by what unlearning has added to the holdout's: it asks in changed prompts, as nobody asked the never-seen model.
- "holdout": without that view, what the model itself shows of holdout rows: other rows of the same kind that it never saw.
- None: neither is there, and nothing can pass.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from peft_unlearn.metrics.holdout_shift import holdout_shift
from peft_unlearn.metrics.membership import SIGNS
from peft_unlearn.metrics.statistics import Estimate, auc_difference, auc_estimate, mean_estimate, share_estimate, total

Rows = list[float | None]

NEVER_SEEN = "the never-seen model"
SAID = {"paired": NEVER_SEEN, "holdout": "the holdout set", None: "nothing to compare with"}
SPOKEN = ("degenerate", "nonwords")  # any model speaks: where nothing else stands beside it, the one before does
# What is asked in other words, and the same as it stands: no wording brings more than that out of who never saw the rows.
AS_ASKED = {"reworded_memorization": "exact_memorization", "reworded_probability": "probability"}
FAR = 0.15  # of an AUC from .5: no sample of rows of one kind would show it, and nothing else explains it
# A probability before of what was taught; and the share of the forget set's at which a holdout was taught as well.
MEMORIZED, TAUGHT = 0.5, 0.8


class Evidence:
    """The numbers of a report, and the reference that they are compared with."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.results: Mapping[str, Any] = report["results"]
        self.attacks: Mapping[str, Any] | None = report.get("attacks")
        self.groups = {name: found["ids"] for name, found in report.get("groups", {}).items()}
        self.holdout = bool(self.get("holdout", "after")) and not self.holdout_was_taught
        self.kind = "paired" if self.get("forget", "never_seen") else "holdout" if self.holdout else None
        self.reference = SAID[self.kind]
        if self.kind == "paired" and report["never_seen"]["kind"] == "estimate":
            self.reference = "the never-seen estimate"
        both = self.holdout and bool(self.get("holdout", "never_seen"))
        self.moved = self.kind == "paired" and both and report["never_seen"]["kind"] == "base"
        self.shift = self._shift() if self.kind == "paired" and both else None

    def get(self, name: str, view: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.results.get(name, {}).get(view, {})
        return found

    def mean(self, name: str, view: str, metric: str) -> float | None:
        mean: float | None = self.get(name, view).get(metric, {}).get("mean")
        return mean

    def rows(self, name: str, view: str, metric: str) -> Rows | None:
        """Values by row; None where the view has no such metric, or none that is finite in all rows that were measured."""
        entry = self.get(name, view).get(metric)
        return None if entry is None or entry["mean"] is None or not entry["rows"] else list(entry["rows"])

    def estimate(self, name: str, rows: Sequence[float | None], bounds: tuple[float, float] | None = None) -> Estimate | None:
        """Mean of a set's rows, with the set's groups."""
        return mean_estimate(rows, self.groups.get(name), bounds=bounds)

    @property
    def holdout_was_taught(self) -> bool:
        """Whether the model before unlearning knows the holdout about as well as the forget set, and a never-seen model does not."""
        forget, holdout = self.mean("forget", "before", "probability"), self.mean("holdout", "before", "probability")
        never = self.mean("holdout", "never_seen", "probability")
        if forget is None or holdout is None or forget < MEMORIZED:
            return False
        return holdout > TAUGHT * forget and (never is None or never < TAUGHT * holdout)

    def said(self) -> str:
        """What the criteria compare with, in a sentence."""
        if self.kind is None:
            return "Nothing shows what a model says of these rows that never saw them: there is no never-seen model, and no holdout."
        if self.kind == "holdout":
            return "No never-seen model: the forget rows are compared with holdout rows of their kind, under the model itself."
        text = f"The forget rows are compared, row by row, with {self.reference}"
        if self.shift is not None:
            than = "less" if self.shift[0] > 1 else "more"
            text += f"; its loss is taken times {self.shift[0]:.2f}, as text of the holdout has become {than} likely since"
        if not self.moved and any(self._move(metric) is not None for metric in AS_ASKED):
            text += "; its numbers in other wordings are moved by what unlearning has added to the holdout's there"
        if self.moved:
            text += "; every number is moved by what the holdout shows, for that model never had the fine-tune"
        return f"{text}."

    def notes(self) -> list[str]:
        """What a reader must know of the reference."""
        said = [self.said()]
        if self.get("holdout", "after") and not self.holdout:
            taught, forget = self.mean("holdout", "before", "probability"), self.mean("forget", "before", "probability")
            numbers = f"its probability before is {taught:.3f}, that of the forget set {forget:.3f}"
            said.append(f"The holdout seems to stand in the training set, and is not used: {numbers}.")
        never = self.mean("forget", "never_seen", "min_k_auc")
        if never is not None and abs(never - 0.5) > FAR:
            said.append(
                f"Forget and holdout set are not of one kind: a model that never saw either tells them apart (min k AUC {never:.3f})."
            )
        return said

    def expected(self, metric: str) -> float | None:
        """What the reference shows of the forget set, on average."""
        if self.kind != "paired":
            return (
                self.mean("holdout", "after", metric) if self.kind else self.mean("forget", "before", metric) if metric in SPOKEN else 0.0
            )
        never = self.mean("forget", "never_seen", metric)
        if never is None:
            return None
        if metric == "loss" and self.shift is not None:
            return never * self.shift[0]
        move = self._move(metric)
        return never + (0.0 if move is None else move.mean)

    def gap(self, metric: str) -> float | None:
        """How much there was to forget: before - reference; of a model without a view before 1 - reference."""
        before, expected = self.mean("forget", "before", metric), self.expected(metric)
        if expected is None:
            return None
        if before is None:
            return None if self.get("forget", "before") else 1 - expected
        return before - expected

    def above(self, metric: str, share: float = 0.0, bounds: tuple[float, float] | None = None) -> Estimate | None:
        """Mean of after - share * before - (1 - share) * reference: above 0 where more than `share` of what was to be forgotten is left.

        With share = 0 the excess over the reference.
        """
        own = self._own(metric, share)
        if own is None:
            return None
        if self.kind == "paired":
            never = self.rows("forget", "never_seen", metric)
            if never is None:
                return None
            move = self._move(metric)
            if _yes_or_no(own) and _yes_or_no(never):  # exact, where few rows say yes
                paired = _sum((1.0, self._share("forget", own)), (-1.0, self._share("forget", never)))
            else:
                paired = self.estimate("forget", _minus(own, never, 1 - share), bounds)
            return paired if move is None else _sum((1.0, paired), (share - 1, move))
        if self.kind == "holdout":
            others = self.rows("holdout", "after", metric)
            there = None if others is None else self._share("holdout", others)
            return None if there is None else _sum((1.0, self._share("forget", own, bounds)), (share - 1, there))
        start = (self.mean("forget", "before", metric) or 0.0) if metric in SPOKEN else 0.0
        found = self._share("forget", own, bounds)
        return found and found._replace(mean=found.mean - start, low=found.low - start, high=found.high - start)

    def _share(self, name: str, rows: Rows, bounds: tuple[float, float] | None = None) -> Estimate | None:
        """The mean of a set's rows: an exact share where they say yes or no."""
        return share_estimate(rows, self.groups.get(name)) if _yes_or_no(rows) else self.estimate(name, rows, bounds)

    def loss(self, share_of_reference: float, share_of_before: float = 0.0) -> Estimate | None:
        """Mean of after's loss - (share_of_reference * reference + share_of_before * before), in nats a token."""
        own = self._own("loss", share_of_before)
        if own is None or self.kind is None:
            return None
        if self.kind == "holdout":
            others = self.rows("holdout", "after", "loss")
            there = None if others is None else self.estimate("holdout", others)
            return None if there is None else _sum((1.0, self.estimate("forget", own)), (-share_of_reference, there))
        never = self.rows("forget", "never_seen", "loss")
        if never is None:
            return None
        factor, shift = self.shift or (1.0, None)
        paired = self.estimate("forget", _minus(own, never, share_of_reference * factor))
        if shift is None:
            return paired
        return _sum((1.0, paired), (-share_of_reference * float(np.mean([value for value in never if value is not None])), shift))

    def membership(self, metric: str) -> Estimate | None:
        """AUC of forget against holdout rows after unlearning, minus the never-seen model's; minus .5 where there is none."""
        views = ("after", "never_seen") if self.kind == "paired" else ("after",)
        sides = [self._side(name, metric, views) for name in ("forget", "holdout")]
        if sides[0] is None or sides[1] is None:
            return self._of_entries(f"{metric}_auc", views)
        if not self.holdout:
            return None
        (members, of_members), (others, of_others) = sides[0], sides[1]
        groups = (of_members, of_others)
        if len(views) == 2:
            return auc_difference((members[0], others[0]), (members[1], others[1]), groups)
        found = auc_estimate(members[0], others[0], groups)
        return found._replace(mean=found.mean - 0.5, low=found.low - 0.5, high=found.high - 0.5)

    def _of_entries(self, metric: str, views: Sequence[str]) -> Estimate | None:
        """The same from the AUCs alone, where a report has no rows behind them: as if they were of different rows, which is wider."""
        entries = [self.get("forget", view).get(metric) for view in views]
        known = [entry for entry in entries if entry and entry["interval"]]
        if len(known) < len(views):
            return None
        parts = []
        for sign, entry in zip((1.0, -1.0), known, strict=False):
            low, high = entry["interval"]
            parts.append((sign, Estimate(entry["mean"], low, high, (high - low) / (2 * norm.ppf(0.975)), math.inf, entry["n"], entry["n"])))
        found = total(*parts)
        half = 0.0 if len(views) == 2 else 0.5
        return found._replace(mean=found.mean - half, low=found.low - half, high=found.high - half)

    def _side(self, name: str, metric: str, views: Sequence[str]) -> tuple[np.ndarray, list[int] | None] | None:
        """(views, rows) of a set, larger for a member, and the groups of these rows; None where fewer than two were measured in all views."""
        found = [self.rows(name, view, metric) for view in views]
        columns = [rows for rows in found if rows is not None]
        if len(columns) < len(views):
            return None
        kept = [i for i, values in enumerate(zip(*columns, strict=True)) if None not in values]
        groups = self.groups.get(name)
        values = SIGNS[metric] * np.array([[column[i] for i in kept] for column in columns], np.float64)
        return (values, None if groups is None else [groups[i] for i in kept]) if len(kept) > 1 else None

    def _own(self, metric: str, share: float) -> Rows | None:
        """after - share * before by row; of a model without a view before, after - share."""
        after = self.rows("forget", "after", metric)
        if after is None or not share:
            return after
        if not self.get("forget", "before"):
            return [None if value is None else value - share for value in after]
        before = self.rows("forget", "before", metric)
        return None if before is None else _minus(after, before, share)

    def _move(self, metric: str) -> Estimate | None:
        """What the reference of a number is moved by, for what was done to this model alone; None where it stands as it is."""
        if self.kind != "paired" or not self.holdout:
            return None
        return self._since("never_seen", metric) if self.moved else self._added(metric) if metric in AS_ASKED else None

    def _since(self, view: str, metric: str) -> Estimate | None:
        """after - `view` on the holdout, which neither fine-tune nor unlearning was to change."""
        after, before = self.rows("holdout", "after", metric), self.rows("holdout", view, metric)
        return None if after is None or before is None else self.estimate("holdout", _minus(after, before))

    def _added(self, metric: str) -> Estimate | None:
        """What unlearning has added, in other wordings of unseen rows, to what the never-seen model and the one before show there.

        At most up to what the never-seen model shows of the forget rows as they are asked; None where nothing was added.
        """
        never, most = (self.mean("forget", "never_seen", name) for name in (metric, AS_ASKED[metric]))
        moves = [move for view in ("never_seen", "before") if (move := self._since(view, metric)) is not None]
        least = min(moves, key=lambda move: move.mean, default=None)
        if least is None or never is None or most is None or min(least.mean, most - never) <= 0:
            return None
        over = max(0.0, never + least.mean - most)
        return least._replace(mean=least.mean - over, low=least.low - over, high=least.high - over)

    def _shift(self) -> tuple[float, Estimate | None] | None:
        """The factor that moves a never-seen model's loss with that of unseen text (`holdout_shift`), and its uncertainty about 0.

        What unlearning itself did to the holdout is a criterion of its own, and moves no reference by more than `beyond` allows it: a model
        that is burnt out everywhere would otherwise be compared with itself.
        """
        then, now, before = (self.rows("holdout", view, "min_k") for view in ("never_seen", "after", "before"))
        if then is None or now is None:
            return None
        old, new = _finite(then), _finite(now)
        factor = holdout_shift(new, old)
        if before is not None:
            start = holdout_shift(_finite(before), old)
            factor = min(max(factor, start / 1.2), start * 1.2)
        changes = [None if a is None or b is None else (a - factor * b) / float(old.mean()) for a, b in zip(now, then, strict=True)]
        spread = self.estimate("holdout", changes)
        return factor, None if spread is None else spread._replace(mean=0.0, low=spread.low - spread.mean, high=spread.high - spread.mean)


def _yes_or_no(rows: Rows) -> bool:
    return set(rows) <= {0.0, 1.0, None}


def _minus(rows: Rows, others: Rows, share: float = 1.0) -> Rows:
    return [None if one is None or other is None else one - share * other for one, other in zip(rows, others, strict=True)]


def _finite(rows: Rows) -> np.ndarray:
    return np.array([value for value in rows if value is not None])


def _sum(*parts: tuple[float, Estimate | None]) -> Estimate | None:
    """A sum, with the rows of its first part: those that are asked about."""
    known = [(weight, estimate) for weight, estimate in parts if estimate is not None]
    return total(*known)._replace(n=known[0][1].n, groups=known[0][1].groups) if len(known) == len(parts) else None
