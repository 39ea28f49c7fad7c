"""Early stopping: when the forget set is where a model would be that never saw it, and the retain set where it was."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from peft_unlearn.data.rows import evenly
from peft_unlearn.metrics.holdout_shift import holdout_shift
from peft_unlearn.metrics.membership import auc
from peft_unlearn.metrics.min_k import LOWEST
from peft_unlearn.model.logprobs import lowest, matched, ranks
from peft_unlearn.training.pace import LAST_ANSWERS, PATIENCE, Pace
from peft_unlearn.training.parting import LEFT
from peft_unlearn.training.targets import mean, min_ks

# By how much a check may miss: the mean in shares of its target, membership in AUC, or Min-K in shares of its target.
TOLERANCE, TOLERANCE_AUC, TOLERANCE_MIN_K = 0.05, 0.03, 0.015
TOLERANCE_ESTIMATE = 0.1  # the mean beside an estimate, which is as far off itself (docs/concepts/target-estimate.md)
TOLERANCE_EXTRACTION = 0.03  # extraction strength above the holdout's
TOLERANCE_ANSWERS = 0.05  # share of the answers to be given instead that greedy decoding may not give yet
TOLERANCE_RECITED = 0.025  # share of the rows with another answer that may come back word for word: none of a sample
TOLERANCE_INNER = 0.03  # recall of the answers' tokens by inner layers above a never-seen model's
LOOKS = 8  # at inner layers in a run: they cost a forward pass a layer, so only what has all else looks, and after these it waits no longer
DEEPER, DEEPEST = 2.0, 8.0  # how much more inner layers weigh after each look that finds them knowing too much, and at most
IN_A_ROW = 2  # checks that must be within tolerance: a run that passes through has not reached its targets
WAITS = 6  # checks in a row that miss the last answers alone: they do not come any more
RETAIN_LOSS = 0.02  # of the retain set's mean probability that may be missing
APPROACH = 0.8  # share of the way from which targets are corrected
SHRINKS = 0.8  # share of a check's miss under which the next one's is taken to go away by itself
GAIN = 0.5  # share of what is missing that a check adds to a correction
FADES = 0.8  # what is left of a correction after a check that finds the mean missed on the side to which it pushes, as a power
CORRECTION = (0.8, 1.25)  # how far, at most
LATER = 0.05  # of `later`, for each tolerance that a check finds extraction strength off by
SAMPLE = 32  # rows of a set that a check sees


class Found(NamedTuple):
    """What a check found: the `share` of the way to the target mean, and by how many tolerances targets are missed, of which one is allowed.

    `mean` and `membership` are negative where the forget set is known less than it should be. So are `extraction` and `inner`, which are no miss
    then.
    """

    share: float
    mean: float
    membership: float
    retain: float
    extraction: float = 0.0
    answers: float = 0.0
    inner: float = 0.0
    recited: float = 0.0

    @property
    def miss(self) -> float:
        """The largest miss."""
        return max(abs(self.mean), abs(self.membership), self.retain, self.extraction, self.answers, self.inner, self.recited)

    def missed(self) -> dict[str, float]:
        """How many tolerances each target is missed by."""
        return {name: round(float(getattr(self, name)), 2) for name in self._fields if name != "share"}


class EarlyStop:
    """Checks a sample of the rows now and then, says when a run has reached its targets, and corrects them.

    What can be told from a model is how the forget rows stand beside rows that it never saw, and training moves those too (measured: 8 % of
    their log-probability on TOFU). So targets move with the holdout: `holdout_shift` is what its Min-K has become, as a factor. And since a
    loss that dies at its target never quite arrives, check by check two corrections add what is missing: one of each row's lowest targets,
    which membership is told by, and one of the rest, for the mean.

    A never-seen model tells each token's target. An estimate tells a row's targets, and they go to its tokens in the order of their
    log-probabilities, so that the model decides which of them can be guessed. But a memorized row recalls itself the better, the more of it has
    been read, and its end would keep all of the high targets. So each token falls back in the order by `later` of its place in the row, as far
    as takes extraction strength down to the holdout's. Where another answer is taught, the tokens that both have come first in the order, for they
    are the form that is left to say it in, and the first one that is another leaves the row's own what is left.

    Args:
        target_logps: of all forget rows, (T,) each, in nats.
        ends: number of end tokens among each of these rows' T.
        retain: mean probability of the retain rows before training.
        holdout: (n,) Min-K of the holdout rows in nats where the targets were taken; None without a holdout.
        estimated: whether targets are a row's, in any order, and not each token's own.
        inner: recall of the sample's tokens by the inner layers of a never-seen model; None where that is not known.
        parting: of each forget row how many of its T tokens come before the one in whose place another answer is taught, which then is not counted;
            T and more for none. Empty where no other answer is awaited.
        common: of each row which of its T tokens the other answer has as well; none where it has none.
        patience: checks without progress after which it is `stalled`.
    """

    def __init__(
        self,
        target_logps: Sequence[np.ndarray],
        ends: Sequence[int],
        retain: float,
        holdout: np.ndarray | None = None,
        *,
        estimated: bool = False,
        inner: float | None = None,
        parting: Sequence[int] = (),
        common: Sequence[Sequence[bool]] = (),
        patience: int = PATIENCE,
    ):
        self.row_ends, self.retain, self.holdout, self.estimated = torch.tensor(ends), retain, holdout, estimated
        self.inner, self.inner_weight, self.looks = inner, 1.0, 0
        lengths = [len(row) for row in target_logps]
        alone = [length - end < 2 for length, end in zip(lengths, ends, strict=True)]  # a word alone has nothing else to tell by
        parts = [length if one else place for place, length, one in zip(parting, lengths, alone, strict=True)] if parting else lengths
        self.parting, self.lengths, some = torch.tensor(parts), torch.tensor(lengths), sampled(len(ends))
        self.common = torch.zeros(len(lengths), max(lengths), dtype=torch.bool)
        for row, flags in enumerate(common):
            self.common[row, : len(flags)] = torch.tensor(flags, dtype=torch.bool)
        self.left_out = [parts[i] for i in some]
        self.ends = [ends[i] - (lengths[i] - ends[i] <= parts[i] < lengths[i]) for i in some]
        checked = self.counted([target_logps[i] for i in some])
        self.mean, self.min_ks = mean(checked), min_ks(checked, self.ends)
        shares = [max(1, int(LOWEST * (len(row) - end))) / len(row) for row, end in zip(checked, self.ends, strict=True) if len(row) > end]
        self.share_lowest = float(np.mean(shares))  # of a row's tokens, those that Min-K is of
        self.auc = None if holdout is None else float(auc(self.min_ks, holdout))
        self.holdout_shift = self.correction_lowest = self.correction_rest = 1.0
        self.later = 0.0
        self.within_tolerance = self.waited = 0  # checks in a row: with all within tolerance, and with all but the last answers
        self.pace = Pace(patience=patience)
        self.last: Found | None = None

    def targets_now(self, rows: Sequence[int], target_logps: Tensor, logps: Tensor, mask: Tensor) -> Tensor:
        """The targets as they are corrected now of B rows by their numbers: three of (B, T) -> (B, T)."""
        ends, length, place = (
            each[list(rows)].to(mask.device, non_blocking=True).unsqueeze(-1) for each in (self.row_ends, self.lengths, self.parting)
        )
        left = mask.flip(-1).cumsum(-1).flip(-1)  # tokens of a row from here on
        before = length - left  # tokens of a row before each, those that a text has lost at its beginning included
        text = mask & (left > ends)
        correction = torch.where(lowest(target_logps, text, LOWEST), self.correction_lowest, self.correction_rest)
        now = self.holdout_shift * target_logps * correction
        parts = mask & (before == place)
        bound = torch.minimum(now.clamp_max(LEFT), logps)  # at most: what is less is not raised
        if self.estimated:
            both = self.common[list(rows)].to(mask.device, non_blocking=True).gather(-1, before.clamp(0, self.common.shape[-1] - 1))
            order = ranks(logps, mask) - self.later * before + mask.sum(-1, keepdim=True) * both
            now = matched(now, order, mask & ~parts)
        return torch.where(parts, bound, now)

    def counted(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The (T,) values of the sample's rows without the token in whose place another answer is taught."""
        return [np.delete(row, range(place, min(place + 1, len(row)))) for row, place in zip(rows, self.left_out, strict=True)]

    def follow(self, holdout: np.ndarray | None) -> np.ndarray | None:
        """Move the targets with the holdout, whose rows' Min-K is now `holdout`; these rows where the shift would have them."""
        if self.holdout is None or holdout is None:
            return None
        self.holdout_shift = holdout_shift(holdout, self.holdout)
        return holdout * max(1.0, 1 / self.holdout_shift)

    def check(
        self,
        forget: Sequence[np.ndarray],
        retain: float,
        holdout: np.ndarray | None = None,
        extraction: float = 0.0,
        answers: float = 0.0,
        recited: float = 0.0,
        inner: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """What rows are like now.

        Args:
            forget: (T,) log-probabilities of each forget row of the sample, in nats.
            retain: mean probability of the retain rows.
            holdout: (n,) Min-K of the holdout rows, in nats.
            extraction: extraction strength of the forget rows less that of the holdout rows.
            answers: share of the answers to be given instead that greedy decoding would not give.
            recited: share of the rows with another answer that come back word for word, where that is more than guessing.
            inner: gives recall by the inner layers now, and is asked where nothing else is missed.
        """
        unseen = self.follow(holdout)
        counted = self.counted(forget)
        target, now, rows = self.mean * self.holdout_shift, mean(counted), min_ks(counted, self.ends)
        if self.auc is not None and unseen is not None:
            missing = missing_factor(rows, unseen, self.auc)
            beside = (float(auc(rows, unseen)) - self.auc) / TOLERANCE_AUC
        else:
            missing = float(self.min_ks.mean() * self.holdout_shift / rows.mean())
            beside = (1 - 1 / missing) / TOLERANCE_MIN_K
        before = self.last or Found(0.0, 0.0, 0.0, 0.0)
        found = Found(
            share=now / target,
            mean=(1 - now / target) / (TOLERANCE_ESTIMATE if self.estimated else TOLERANCE),
            membership=beside,
            retain=(self.retain - retain) / RETAIN_LOSS,
            extraction=extraction / TOLERANCE_EXTRACTION,
            answers=answers / TOLERANCE_ANSWERS,
            recited=recited / TOLERANCE_RECITED,
        )
        self.last = found = self._looked(found, inner)
        near = APPROACH <= found.share <= 1 / APPROACH
        self.pace.check((found.mean, found.membership), found.retain, near, found.extraction, max(found.answers, found.recited))
        self.within_tolerance = self.within_tolerance + 1 if found.miss <= 1 else 0
        self.waited = self.waited + 1 if found._replace(answers=0.0).miss <= 1 and found.answers <= LAST_ANSWERS else 0
        if near:
            self.later = min(max(self.later + LATER * found.extraction, 0.0), 1.0)
            least = self.share_lowest * rows.mean()  # of the mean, about
            rest = (target - missing * least) / (now - least)
            self.correction_lowest = corrected(self.correction_lowest, 1.0 if shrinks(found.membership, before.membership) else missing)
            self.correction_rest = corrected(self.correction_rest, 1.0 if shrinks(found.mean, before.mean) else rest)
            if abs(found.mean) > 1 and found.mean * (self.correction_lowest - 1) < 0:  # rows follow slowly: it was for what they were
                self.correction_lowest **= FADES

    def _looked(self, found: Found, inner: Callable[[], float]) -> Found:
        """What was found, with a look at the inner layers where all else is as it shall be; they weigh more from then on if they know too much."""
        if self.inner is None or found.miss > 1 or self.looks == LOOKS:
            return found
        self.looks += 1
        found = found._replace(inner=(inner() - self.inner) / TOLERANCE_INNER)
        if found.inner > 1:
            self.inner_weight = min(self.inner_weight * DEEPER, DEEPEST)
        return found

    @property
    def reached(self) -> bool:
        """Whether two checks in a row found the forget set at its targets and the retain set as probable as before, or six all but the last answers.

        At its targets is, from above or from below: the mean within 5 %, or 10 % of an estimate, the membership AUC within .03; and inner layers know
        no more than they may.
        """
        return self.within_tolerance >= IN_A_ROW or self.waited >= WAITS

    @property
    def stalled(self) -> bool:
        """Whether it no longer comes nearer, and the last check did not find it there: then the next one decides."""
        return self.pace.stalled and not (self.within_tolerance or self.waited)

    def state_dict(self) -> dict[str, Tensor]:
        """What earlier checks have found."""
        found = (
            self.holdout_shift,
            self.correction_lowest,
            self.correction_rest,
            self.later,
            self.inner_weight,
            self.looks,
            self.within_tolerance,
            self.waited,
        )
        last = torch.tensor(self.last or (), dtype=torch.float64)
        return {"checks": torch.tensor(found, dtype=torch.float64), "last": last, "pace": self.pace.state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what the checks of a `state_dict` have found."""
        self.holdout_shift, self.correction_lowest, self.correction_rest, self.later, self.inner_weight, *counts = state["checks"].tolist()
        self.looks, self.within_tolerance, self.waited = map(int, counts)
        self.last = Found(*state["last"].tolist()) if len(state["last"]) else None
        self.pace = Pace.of(state["pace"], self.pace.patience)


def sampled(rows: int) -> list[int]:
    """Numbers of at most `SAMPLE` rows, evenly spaced."""
    return evenly(rows, SAMPLE)


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
    return float(min(max(correction * min(max(missing, low), high) ** GAIN, low), high))
