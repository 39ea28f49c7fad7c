"""Landing: when the forget set is where a model would be that never saw it, and the retain set where it was."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from peft_unlearn.metrics.membership import auc
from peft_unlearn.model.logprobs import lowest, matched
from peft_unlearn.training.targets import lowest_means, mean, sample, scored

NEAR, NEAR_AUC, NEAR_LOWEST = 0.05, 0.03, 0.015  # by which a look may miss: the level in shares of it, membership in AUC or shares of Min-K
LOOKS = 2  # in a row that must be near: a run that passes through has not landed
KEPT = 0.02  # of the retain set's mean probability that may be missing
APPROACH = 0.8  # share of the way from which the aim is trimmed
GAIN = 0.5  # share of what is missing that a look adds to a trim
TRIM = (0.8, 1.25)  # how far, at most


class EarlyStop:
    """Looks at a sample of the rows now and then, says when a run has landed, and corrects the aim.

    What can be told from a model is how the forget rows stand beside rows that it never saw, and training moves those too (measured: 8 % of
    their log-probability on TOFU). So levels move with the holdout: `drift` is what its Min-K has become. And since a loss that dies at its level
    never quite arrives, look by look two trims add what is missing: one of each row's lowest target_logps, which membership is told by, and one of
    the rest, for the mean.

    Args:
        target_logps: of the forget rows that are looked at, (T,) each, in nats.
        retain: mean probability of the retain rows before training.
        holdout: (n,) Min-K of the holdout rows in nats where the levels were taken; None without a holdout.
    """

    STATE = ("drift", "trim_lowest", "trim_rest", "near")  # what a checkpoint must keep

    def __init__(self, target_logps: Sequence[np.ndarray], retain: float, holdout: np.ndarray | None = None):
        self.level, self.lowest, self.retain, self.holdout = mean(target_logps), lowest_means(target_logps), retain, holdout
        self.auc = None if holdout is None else float(auc(self.lowest, holdout))
        self.drift = self.trim_lowest = self.trim_rest = 1.0
        self.near = 0  # looks in a row

    def aim(self, target_logps: Tensor, logps: Tensor, mask: Tensor) -> Tensor:
        """The levels to go for, in the order of what the tokens have now: (B, T), (B, T), (B, T) -> (B, T)."""
        return matched(self.drift * target_logps * torch.where(lowest(target_logps, mask), self.trim_lowest, self.trim_rest), logps, mask)

    def follow(self, holdout: np.ndarray | None) -> None:
        """Move the levels with the holdout, whose rows' Min-K is now `holdout`."""
        if self.holdout is not None and holdout is not None:
            self.drift = float(holdout.mean() / self.holdout.mean())

    def look(self, forget: Sequence[np.ndarray], retain: float, holdout: np.ndarray | None = None) -> None:
        """Log-probabilities of the forget rows in nats, mean probability of the retain rows, Min-K of the holdout rows, as they are now."""
        self.follow(holdout)
        level, now, rows = self.level * self.drift, mean(forget), lowest_means(forget)
        if self.auc is not None and holdout is not None:
            missing = stretch(rows, holdout, self.auc)
            beside = abs(float(auc(rows, holdout)) - self.auc) <= NEAR_AUC
        else:
            missing = float(self.lowest.mean() * self.drift / rows.mean())
            beside = abs(1 / missing - 1) <= NEAR_LOWEST
        near = abs(now / level - 1) <= NEAR and beside and retain >= self.retain - KEPT
        self.near = self.near + 1 if near else 0
        if APPROACH <= now / level <= 1 / APPROACH:
            least = 0.4 * rows.mean()  # of the mean, about
            self.trim_lowest = trimmed(self.trim_lowest, missing)
            self.trim_rest = trimmed(self.trim_rest, (level - missing * least) / (now - least))

    @property
    def reached(self) -> bool:
        """Whether two checks in a row found the forget set at its targets and the retain set as probable as before.

        At its targets is, from above or from below: the mean within 5 %, the membership AUC within .03.
        """
        return self.near >= LOOKS


class Checks(NamedTuple):
    """What a look sees: samples of a run's sets, under the adapters that are active."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    sets: Mapping[str, Dataset]
    batch_size: int

    def at(self, name: str) -> list[np.ndarray]:
        """The (T,) log-probabilities of each row of a sample."""
        return scored(self.model, self.tokenizer, sample(self.sets[name]), self.batch_size)

    def retained(self) -> float:
        """Mean probability of the retain rows."""
        return float(np.mean([np.exp(logps.mean()) for logps in self.at("retain")]))

    def beside(self) -> np.ndarray | None:
        """Min-K of the holdout rows; None without a holdout."""
        return lowest_means(self.at("holdout")) if "holdout" in self.sets else None


def stretch(rows: np.ndarray, others: np.ndarray, target: float) -> float:
    """The factor c at which AUC(c · rows, others) is `target`: (n,), (m,) negative values.

    c · f > h is c < h / f, so that the AUC falls with c as the share of the n m quotients that are above it: c is their (1 − target) quantile.
    """
    return float(np.quantile(np.divide.outer(others, rows), 1 - target))


def trimmed(trim: float, missing: float) -> float:
    """A trim after a look that found a factor `missing`."""
    return min(max(trim * min(max(missing, TRIM[0]), TRIM[1]) ** GAIN, TRIM[0]), TRIM[1])
