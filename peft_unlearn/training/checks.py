"""Checks of early stopping: what a run's rows are like now, by forward passes over samples of them, which several processes share."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.likeness import UNLIKE, likeness
from peft_unlearn.data.rows import evenly
from peft_unlearn.metrics.extraction_from_start import extraction_from_start
from peft_unlearn.metrics.extraction_strength import extraction_strength
from peft_unlearn.metrics.logit_lens import logit_lens
from peft_unlearn.model.scoring import RowScore, score
from peft_unlearn.model.sharing import sharing
from peft_unlearn.training.early_stop import EarlyStop, sampled
from peft_unlearn.training.objectives import Objective
from peft_unlearn.training.pace import patience
from peft_unlearn.training.parting import Parting
from peft_unlearn.training.targets import end_lengths, mean, min_ks, read

logger = logging.getLogger(__name__)

UNKNOWN = 0.95  # share of the way to the targets from which on rows are not known at the start
COMPARED = 256  # rows of forget and holdout set by which it is told whether these are of one kind
WORD_FOR_WORD = 0.9  # of a row's tokens, from the first one
GUESSED = 3.0  # times as many as of the holdout: beyond it, as in the verdict, they are not guessed
EVERY, SHARE = 10, 0.1  # steps between two checks, at least, and the share of a run's forward passes that they may take


class Checks(NamedTuple):
    """What a check sees: samples of a run's sets, under the adapters that are active.

    Args:
        sets: forget and retain set; a holdout where there is one; "answers" that are taught, where the run waits for them.
        parting: where the answers that are taught part from the forget rows; None where none are taught.
    """

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    sets: Mapping[str, Dataset]
    batch_size: int
    parting: Parting | None = None

    def every(self, objectives: Sequence[Objective], batch_size: int) -> int:
        """Steps between two checks: so many that checking is at most a tenth of what is computed, a backward pass counted as two forwards."""
        rows = sum(len(sampled(len(self.sets[name]))) for name in ("forget", "retain", "holdout", "answers") if name in self.sets)
        step = batch_size * sum(1 + 2 * count for count in Counter(objective.stream for objective in objectives).values())
        return max(EVERY, math.ceil(rows / (SHARE * step)))

    @sharing()
    def begin(self, holdout_target: np.ndarray | None, inner_target: float | None, *, estimated: bool, batch_size: int) -> EarlyStop:
        """Where a run is to stop: at the targets of the forget rows, from how the model is now. Rows that it does not know are told.

        Args:
            holdout_target, inner_target: see `EarlyStop`.
            estimated: see `EarlyStop`.
            batch_size: forget rows of a step, of all processes.
        """
        rows = self.sets["forget"]
        how: dict[str, Any] = {"estimated": estimated, "inner": inner_target, "patience": patience(len(rows), EVERY * batch_size)}
        if self.parting is not None and "answers" in self.sets:
            how |= {"parting": self.parting.rows, "common": self.parting.common}
        found = EarlyStop(read(rows), end_lengths(self.tokenizer, rows), self.retain_probability(), holdout_target, **how)
        found.follow(self.holdout_min_ks())
        self._warn_of_unlike_rows()
        now, unseen = mean(found.counted(_logps(self.scores("forget")))), found.mean * found.holdout_shift
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
        sides = (self.sets[name].select(evenly(len(self.sets[name]), COMPARED)) for name in ("forget", "holdout"))
        found = likeness(*(self.tokenizer.batch_decode(list(side["input_ids"])) for side in sides))
        if found is not None and found < UNLIKE:
            logger.warning(
                "holdout_dataset: these rows are unlike the forget rows (likeness %.2f, and %.1f or more where they are of one kind), so they cannot "
                "tell where to stop; give rows of the forget set's kind that the model never saw.",
                found,
                UNLIKE,
            )

    @sharing()
    def check(self, early_stop: EarlyStop) -> None:
        """Let `early_stop` see what the rows are like now."""
        forget, extraction = self.scores("forget"), 0.0
        holdout = self.scores("holdout") if "holdout" in self.sets else None
        if holdout is not None and early_stop.estimated:
            extraction = _extraction(forget) - _extraction(holdout)
        early_stop.check(
            _logps(forget),
            self.retain_probability(),
            None if holdout is None else _min_ks(holdout),
            extraction,
            self._lacking(),
            self._recited(forget, holdout or []),
            lambda: mean_recall(inner_recalls(self.model, self.tokenizer, self.sets["forget"], self.batch_size)) or 0.0,
        )

    def _lacking(self) -> float:
        """Share of the other answers that greedy decoding does not begin, up to where they part from the forgotten ones and go on otherwise."""
        if self.parting is None or "answers" not in self.sets:
            return 0.0
        places = [self.parting.answers[row] for row in sampled(len(self.parting.answers))]
        said = [row.correct[: place + 1].all() for row, place in zip(self.scores("answers"), places, strict=True)]
        return 1 - float(np.mean(said))

    def _recited(self, forget: Sequence[RowScore], holdout: Sequence[RowScore]) -> float:
        """Share of the rows that come back word for word where another answer does not; none where as many holdout rows do by guessing."""
        if self.parting is None:
            return 0.0
        parts = [self.parting.rows[row] for row in sampled(len(self.parting.rows))]
        replaced = [row for row, part in zip(forget, parts, strict=True) if part < WORD_FOR_WORD * (len(row.logps) - row.end)]
        told, guessed = recited(replaced), recited(holdout)
        return told if told > GUESSED * guessed else 0.0

    def scores(self, name: str) -> list[RowScore]:
        """A sample of a set, row by row."""
        return score(self.model, sample(self.sets[name]), self.tokenizer, batch_size=self.batch_size, progress="checks")

    def retain_probability(self) -> float:
        """Mean probability of the retain rows."""
        return float(np.mean([np.exp(row.logps.mean()) for row in self.scores("retain")]))

    def holdout_min_ks(self) -> np.ndarray | None:
        """Min-K of the holdout rows; None without a holdout."""
        return _min_ks(self.scores("holdout")) if "holdout" in self.sets else None


def inner_recalls(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, forget: Dataset, batch_size: int
) -> list[float | None]:
    """Of each row of a sample of the forget set, the recall by its best inner layer; None where layers cannot be read."""
    return logit_lens(model, tokenizer, sample(forget), batch_size=batch_size, progress="inner layers")["rows"]


def mean_recall(recalls: Iterable[float | None]) -> float | None:
    """Mean of those that are there."""
    found = [recall for recall in recalls if recall is not None and not math.isnan(recall)]
    return float(np.mean(found)) if found else None


def _logps(rows: Sequence[RowScore]) -> list[np.ndarray]:
    return [row.logps for row in rows]


def _min_ks(rows: Sequence[RowScore]) -> np.ndarray:
    return min_ks(_logps(rows), [row.end for row in rows])


def _extraction(rows: Sequence[RowScore]) -> float:
    found = [value for row in rows if (value := extraction_strength(row)) is not None]
    return float(np.mean(found)) if found else 0.0


def recited(rows: Sequence[RowScore]) -> float:
    """Share of the rows of which greedy decoding writes `WORD_FOR_WORD` from the prompt alone."""
    found = [value for row in rows if (value := extraction_from_start(row)) is not None]
    return float(np.mean([value >= WORD_FOR_WORD for value in found])) if found else 0.0


def sample(rows: Dataset) -> Dataset:
    """The rows of a set that a check sees."""
    return rows.select(sampled(len(rows)))
