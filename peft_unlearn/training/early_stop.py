"""Early stopping: when the forget set is where a model would be that never saw it, and the retain set where it was."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from peft_unlearn.data.likeness import UNLIKE, likeness
from peft_unlearn.data.rows import evenly
from peft_unlearn.metrics.extraction_strength import extraction_strength
from peft_unlearn.metrics.holdout_shift import holdout_shift
from peft_unlearn.metrics.membership import auc
from peft_unlearn.metrics.min_k import LOWEST
from peft_unlearn.model.logprobs import lowest, matched, ranks
from peft_unlearn.model.scoring import RowScore, score
from peft_unlearn.training.objectives import Objective
from peft_unlearn.training.pace import Pace
from peft_unlearn.training.targets import end_lengths, mean, min_ks, read

logger = logging.getLogger(__name__)

# By how much a check may miss: the mean in shares of its target, membership in AUC, or Min-K in shares of its target.
TOLERANCE, TOLERANCE_AUC, TOLERANCE_MIN_K = 0.05, 0.03, 0.015
TOLERANCE_EXTRACTION = 0.03  # extraction strength above the holdout's
IN_A_ROW = 2  # checks that must be within tolerance: a run that passes through has not reached its targets
UNKNOWN = 0.95  # share of the way to the targets from which on rows are not known at the start
RETAIN_LOSS = 0.01  # of the retain set's mean probability that may be missing
APPROACH = 0.8  # share of the way from which targets are corrected
SHRINKS = 0.8  # share of a check's miss under which the next one's is taken to go away by itself
GAIN = 0.5  # share of what is missing that a check adds to a correction
CORRECTION = (0.8, 1.25)  # how far, at most
LATER = 0.05  # of `later`, for each tolerance that a check finds extraction strength off by
EVERY, SHARE = 10, 0.1  # steps between two checks, at least, and the share of a run's forward passes that they may take
SAMPLE = 32  # rows of a set that a check sees


class Found(NamedTuple):
    """What a check found: the `share` of the way to the target mean, and by how many tolerances targets are missed, of which one is allowed.

    `mean` and `membership` are negative where the forget set is known less than it should be. So is `extraction`, which is no miss then.
    """

    share: float
    mean: float
    membership: float
    retain: float
    extraction: float = 0.0

    @property
    def miss(self) -> float:
        """The largest miss."""
        return max(abs(self.mean), abs(self.membership), self.retain, self.extraction)

    def missed(self) -> dict[str, float]:
        """How many tolerances each target is missed by."""
        return {name: round(float(getattr(self, name)), 2) for name in ("mean", "membership", "retain", "extraction")}


class EarlyStop:
    """Checks a sample of the rows now and then, says when a run has reached its targets, and corrects them.

    What can be told from a model is how the forget rows stand beside rows that it never saw, and training moves those too (measured: 8 % of
    their log-probability on TOFU). So targets move with the holdout: `holdout_shift` is what its Min-K has become, as a factor. And since a
    loss that dies at its target never quite arrives, check by check two corrections add what is missing: one of each row's lowest targets,
    which membership is told by, and one of the rest, for the mean.

    A never-seen model tells each token's target. An estimate tells a row's targets, and they go to its tokens in the order of their
    log-probabilities, so that the model decides which of them can be guessed. But a memorized row recalls itself the better, the more of it has
    been read, and its end would keep all of the high targets. So each token falls back in the order by `later` of its place in the row, as far
    as takes extraction strength down to the holdout's.

    Args:
        target_logps: of all forget rows, (T,) each, in nats.
        ends: number of end tokens among each of these rows' T.
        retain: mean probability of the retain rows before training.
        holdout: (n,) Min-K of the holdout rows in nats where the targets were taken; None without a holdout.
        estimated: whether targets are a row's, in any order, and not each token's own.
    """

    def __init__(
        self,
        target_logps: Sequence[np.ndarray],
        ends: Sequence[int],
        retain: float,
        holdout: np.ndarray | None = None,
        *,
        estimated: bool = False,
    ):
        self.row_ends, self.retain, self.holdout, self.estimated = torch.tensor(ends), retain, holdout, estimated
        some = sampled(len(ends))
        self.ends, checked = [ends[i] for i in some], [target_logps[i] for i in some]
        self.mean, self.min_ks = mean(checked), min_ks(checked, self.ends)
        shares = [max(1, int(LOWEST * (len(row) - end))) / len(row) for row, end in zip(checked, self.ends, strict=True) if len(row) > end]
        self.share_lowest = float(np.mean(shares))  # of a row's tokens, those that Min-K is of
        self.auc = None if holdout is None else float(auc(self.min_ks, holdout))
        self.holdout_shift = self.correction_lowest = self.correction_rest = 1.0
        self.later = 0.0
        self.within_tolerance = 0  # checks in a row
        self.pace = Pace()
        self.last: Found | None = None

    def targets_now(self, rows: Sequence[int], target_logps: Tensor, logps: Tensor, mask: Tensor) -> Tensor:
        """The targets as they are corrected now of B rows by their numbers: three of (B, T) -> (B, T)."""
        left = mask.flip(-1).cumsum(-1).flip(-1)  # tokens of a row from here on
        text = mask & (left > self.row_ends[list(rows)].to(mask.device, non_blocking=True).unsqueeze(-1))
        correction = torch.where(lowest(target_logps, text, LOWEST), self.correction_lowest, self.correction_rest)
        now = self.holdout_shift * target_logps * correction
        return matched(now, ranks(logps, mask) - self.later * mask.cumsum(-1), mask) if self.estimated else now

    def follow(self, holdout: np.ndarray | None) -> None:
        """Move the targets with the holdout, whose rows' Min-K is now `holdout`."""
        if self.holdout is not None and holdout is not None:
            self.holdout_shift = holdout_shift(holdout, self.holdout)

    def check(self, forget: Sequence[np.ndarray], retain: float, holdout: np.ndarray | None = None, extraction: float = 0.0) -> None:
        """What rows are like now.

        Args:
            forget: (T,) log-probabilities of each forget row, in nats.
            retain: mean probability of the retain rows.
            holdout: (n,) Min-K of the holdout rows, in nats.
            extraction: extraction strength of the forget rows less that of the holdout rows.
        """
        self.follow(holdout)
        target, now, rows = self.mean * self.holdout_shift, mean(forget), min_ks(forget, self.ends)
        if self.auc is not None and holdout is not None:
            missing = missing_factor(rows, holdout, self.auc)
            beside = (float(auc(rows, holdout)) - self.auc) / TOLERANCE_AUC
        else:
            missing = float(self.min_ks.mean() * self.holdout_shift / rows.mean())
            beside = (1 - 1 / missing) / TOLERANCE_MIN_K
        before = self.last
        self.last = found = Found(
            share=now / target,
            mean=(1 - now / target) / TOLERANCE,
            membership=beside,
            retain=(self.retain - retain) / RETAIN_LOSS,
            extraction=extraction / TOLERANCE_EXTRACTION,
        )
        near = APPROACH <= found.share <= 1 / APPROACH
        self.pace.check((found.mean, found.membership), found.retain, near, found.extraction)
        self.within_tolerance = self.within_tolerance + 1 if found.miss <= 1 else 0
        if near:
            self.later = min(max(self.later + LATER * found.extraction, 0.0), 1.0)
        if near and not (before and shrinks(found.membership, before.membership)):
            self.correction_lowest = corrected(self.correction_lowest, missing)
        if near and not (before and shrinks(found.mean, before.mean)):
            least = self.share_lowest * rows.mean()  # of the mean, about
            self.correction_rest = corrected(self.correction_rest, (target - missing * least) / (now - least))

    @property
    def reached(self) -> bool:
        """Whether two checks in a row found the forget set at its targets and the retain set as probable as before.

        At its targets is, from above or from below: the mean within 5 %, the membership AUC within .03.
        """
        return self.within_tolerance >= IN_A_ROW

    def state_dict(self) -> dict[str, Tensor]:
        """What earlier checks have found."""
        found = (self.holdout_shift, self.correction_lowest, self.correction_rest, self.later, self.within_tolerance)
        last = torch.tensor(self.last or (), dtype=torch.float64)
        return {"checks": torch.tensor(found, dtype=torch.float64), "last": last, "pace": self.pace.state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what the checks of a `state_dict` have found."""
        self.holdout_shift, self.correction_lowest, self.correction_rest, self.later, within = state["checks"].tolist()
        self.within_tolerance = int(within)
        self.last = Found(*state["last"].tolist()) if len(state["last"]) else None
        self.pace = Pace.of(state["pace"])


class Checks(NamedTuple):
    """What a check sees: samples of a run's sets, under the adapters that are active."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    sets: Mapping[str, Dataset]
    batch_size: int

    def every(self, objectives: Sequence[Objective], batch_size: int) -> int:
        """Steps between two checks: so many that checking is at most a tenth of what is computed, a backward pass counted as two forwards."""
        rows = sum(len(sampled(len(self.sets[name]))) for name in ("forget", "retain", "holdout") if name in self.sets)
        step = batch_size * sum(1 + 2 * count for count in Counter(objective.stream for objective in objectives).values())
        return max(EVERY, math.ceil(rows / (SHARE * step)))

    def begin(self, holdout_target: np.ndarray | None, *, estimated: bool) -> EarlyStop:
        """Where a run is to stop: at the targets of the forget rows, from how the model is now. Rows that it does not know are told.

        Args:
            holdout_target: see `EarlyStop`.
            estimated: see `EarlyStop`.
        """
        rows = self.sets["forget"]
        found = EarlyStop(read(rows), end_lengths(self.tokenizer, rows), self.retain_probability(), holdout_target, estimated=estimated)
        found.follow(self.holdout_min_ks())
        self._warn_of_unlike_rows()
        now, unseen = mean(_logps(self.scores("forget"))), found.mean * found.holdout_shift
        if now <= UNKNOWN * unseen:
            logger.warning(
                "forget_dataset: there is nothing to forget, the model does not know these rows: their mean log-probability is %.2f, and %.2f is "
                "that of a model that never saw them.",
                now,
                unseen,
            )
        return found

    def _warn_of_unlike_rows(self) -> None:
        if "holdout" not in self.sets:
            return
        forget, holdout = (self.tokenizer.batch_decode(list(self.sets[name]["input_ids"])) for name in ("forget", "holdout"))
        found = likeness(forget, holdout)
        if found is not None and found < UNLIKE:
            logger.warning(
                "holdout_dataset: these rows are unlike the forget rows (likeness %.2f, and %.1f or more where they are of one kind), so they cannot "
                "tell where to stop; give rows of the forget set's kind that the model never saw.",
                found,
                UNLIKE,
            )

    def check(self, early_stop: EarlyStop) -> None:
        """Let `early_stop` see what the rows are like now."""
        forget, extraction = self.scores("forget"), 0.0
        holdout = self.scores("holdout") if "holdout" in self.sets else None
        if holdout is not None and early_stop.estimated:
            extraction = _extraction(forget) - _extraction(holdout)
        early_stop.check(_logps(forget), self.retain_probability(), None if holdout is None else _min_ks(holdout), extraction)

    def scores(self, name: str) -> list[RowScore]:
        """A sample of a set, row by row."""
        return score(self.model, sample(self.sets[name]), self.tokenizer, batch_size=self.batch_size, progress="checks")

    def retain_probability(self) -> float:
        """Mean probability of the retain rows."""
        return float(np.mean([np.exp(row.logps.mean()) for row in self.scores("retain")]))

    def holdout_min_ks(self) -> np.ndarray | None:
        """Min-K of the holdout rows; None without a holdout."""
        return _min_ks(self.scores("holdout")) if "holdout" in self.sets else None


def _logps(rows: Sequence[RowScore]) -> list[np.ndarray]:
    return [row.logps for row in rows]


def _min_ks(rows: Sequence[RowScore]) -> np.ndarray:
    return min_ks(_logps(rows), [row.end for row in rows])


def _extraction(rows: Sequence[RowScore]) -> float:
    found = [value for row in rows if (value := extraction_strength(row)) is not None]
    return float(np.mean(found)) if found else 0.0


def sampled(rows: int) -> list[int]:
    """Numbers of at most `SAMPLE` rows, evenly spaced."""
    return evenly(rows, SAMPLE)


def sample(rows: Dataset) -> Dataset:
    """The rows of a set that a check sees."""
    return rows.select(sampled(len(rows)))


def missing_factor(rows: np.ndarray, others: np.ndarray, target: float) -> float:
    """The factor c at which AUC(c · rows, others) is `target`: (n,), (m,) negative values.

    c · f > h is c < h / f, so that the AUC falls with c as the share of the n m quotients that are above it: c is their (1 − target) quantile.
    """
    return float(np.quantile(np.divide.outer(others, rows), 1 - target))


def shrinks(miss: float, before: float) -> bool:
    """Whether a miss goes away by itself: corrected as well, it would come out on the other side."""
    return miss * before > 0 and abs(miss) < SHRINKS * abs(before)


def corrected(correction: float, missing: float) -> float:
    """A correction after a check that found a factor `missing`."""
    low, high = CORRECTION
    return min(max(correction * float(min(max(missing, low), high) ** GAIN), low), high)
