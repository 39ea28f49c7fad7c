"""A budget for what forgetting may cost: the divergence from the reference on retain rows that are not trained on stays under `retain_kl_max`.

What is compared with the budget is the mean over these rows and some standard errors more, so that it holds for other rows of their kind. A run may
pass through states outside, for some come back by themselves; one that ends outside goes back towards its last state inside. Steered on the way, runs
forgot less in the same budget (docs/studies/retain-budget.md).
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from peft_unlearn import data
from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.metrics.retain_kl import retain_kl
from peft_unlearn.model import adapters
from peft_unlearn.training import datasets
from peft_unlearn.training.checks import EVERY, SHARE
from peft_unlearn.training.objectives import Objective
from peft_unlearn.util.errors import UserError

logger = logging.getLogger(__name__)

# One retain row in four is left out of training, at most so many. They are of subjects that no row is trained on, where it is told which rows belong
# together: with rows of the same authors left out, the mean teacher ended at .03 on them and at 2.6 on other authors (docs/studies/retain-budget.md).
# Else they are blocks, for rows that stand together are often about the same, and others are not.
PART, MOST, BLOCKS = 4, 64, 8
SUBJECTS = 3  # left out at least, of twice as many
FEWEST = 32  # retain rows below which none is left out, and the model writes as many texts instead
# Standard errors of rows or blocks, whichever is larger. Few rows of many kinds say little of others: with one of 15 rows and two errors a mean of
# .047 was one of .141 on rows of other subjects (measured). Of log-normal divergences, three leave 3 to 9 runs of 100 outside. Subjects that are
# left out are the nearest to the forget set of their part, so that their mean errs upward by itself; with half an error four of 20 were outside.
ERRORS, ERRORS_NEAREST = 3.0, 2.0


def begin(
    model: PeftModel, args: UnlearnConfig, tokenizer: PreTrainedTokenizerBase, trained: dict[str, Dataset], subjects: Sequence[int]
) -> "Budget | None":
    """The budget of a run, where it has one. What it is measured on is taken out of the retain rows in `trained`.

    Args:
        subjects: of each retain row, a number that rows which belong together share; empty where each stands alone.
    """
    if args.retain_kl_max is None:
        return None
    trained["retain"], rows, parts = divided(model, args, tokenizer, trained["retain"], trained["forget"], subjects)
    errors = ERRORS_NEAREST if parts and are_enough(subjects) else ERRORS
    return Budget(args.retain_kl_max, model, rows, parts, args.per_device_eval_batch_size, errors)


def divided(
    model: PeftModel,
    args: UnlearnConfig,
    tokenizer: PreTrainedTokenizerBase,
    retain: Dataset,
    forget: Dataset,
    subjects: Sequence[int] = (),
) -> tuple[Dataset, Dataset, list[int]]:
    """The retain rows to train on, those to measure on, and to which part each of these belongs; none where the model wrote them.

    Raises:
        UserError: too few retain rows, and the model writes no text of its own.
    """
    if len(retain) >= FEWEST:
        parts = left_out(len(retain), subjects, nearness(forget, retain))
        logger.info("retain_kl_max: %d of %d retain rows are left out of training and measured on.", len(parts), len(retain))
        return retain.select([row for row in range(len(retain)) if row not in parts]), retain.select([*parts]), [*parts.values()]
    length = min(datasets.row_length(model.config, args.max_length), datasets.NEUTRAL_LENGTH)
    how = {"max_length": length, "seed": args.seed, "forget": forget, "what": "retain_kl_max", "batch_size": datasets.NEUTRAL_BATCH}
    with adapters.view(model, "given"):
        written = data.write_rows(model, tokenizer, FEWEST, **how)
    if len(written) < FEWEST // 2:
        raise UserError(
            f"retain_kl_max: it is measured on retain rows that are not trained on, and {len(retain)} are too few to leave some out; "
            f"give a retain_dataset of {FEWEST} or more."
        )
    logger.warning(
        "retain_kl_max: %d retain rows are too few to leave some out, so it is measured on %d texts that the model wrote itself.",
        len(retain),
        len(written),
    )
    texts = data.tokenize(Dataset.from_list(written), tokenizer, length, name="retain_kl_max", template_arguments=args.chat_template_kwargs)
    return retain, texts.rows, []


def are_enough(subjects: Sequence[int]) -> bool:
    """Whether some of the subjects of so many rows can be left out as a whole."""
    return 2 * SUBJECTS <= len(set(subjects)) < len(subjects)


def left_out(rows: int, subjects: Sequence[int] = (), near: Sequence[float] = ()) -> dict[int, int]:
    """The numbers of the rows that are left out of so many, in order, and to which part each belongs: a subject as a whole, or a block.

    Subjects are put in order of how near they are to the forget set, and that order is cut into equal parts. Of each the nearest is left out: what
    is nearest moves most, by up to a hundred times more than the rest (docs/studies/retain-budget.md).
    """
    if are_enough(subjects):
        found = [*dict.fromkeys(subjects)]
        nearest = {subject: max(near[row] for row in range(rows) if subjects[row] == subject) for subject in found}
        found.sort(key=lambda subject: -nearest[subject])
        count = max(SUBJECTS, min(rows // PART, MOST) * len(found) // rows)
        chosen = {found[n * len(found) // count] for n in range(count)}
        return {row: subject for row, subject in enumerate(subjects) if subject in chosen}
    size = max(1, min(rows // PART, MOST) // BLOCKS)
    starts = [(2 * block + 1) * rows // (2 * BLOCKS) - size // 2 for block in range(BLOCKS)]
    return {start + i: block for block, start in enumerate(starts) for i in range(size)}


def nearness(forget: Dataset, retain: Dataset) -> list[float]:
    """How near each retain row is to the forget set: of its tokens the one that is frequent there and rare in the retain set, as names are.

    A token counts as the share of forget rows that have it, times the logarithm of how many retain rows there are to one that has it.
    """
    there, here = ([set(row) for row in rows["input_ids"]] for rows in (forget, retain))
    often, rare = (Counter(token for row in side for token in row) for side in (there, here))
    return [max(often[token] / len(there) * math.log(len(here) / rare[token]) for token in row) for row in here]


class Budget:
    """What a run has spent of its budget.

    Attributes:
        spent: what the last check found, in nats a token; `mean` without its standard errors.
        kept: the mean at the last check that was inside.
    """

    def __init__(self, limit: float, model: PeftModel, rows: Dataset, parts: Sequence[int], batch_size: int, errors: float = ERRORS):
        self.limit, self.model, self.rows, self.parts, self.batch_size, self.errors = (
            limit,
            model,
            rows,
            np.array(parts),
            batch_size,
            errors,
        )
        self.spent = self.mean = self.kept = 0.0

    def every(self, objectives: Sequence[Objective], batch_size: int) -> int:
        """Steps between two checks: so many that these take a tenth of what is computed at most, a backward pass counted as two forwards."""
        step = batch_size * sum(1 + 2 * count for count in Counter(objective.stream for objective in objectives).values())
        return max(EVERY, math.ceil(2 * len(self.rows) / (SHARE * step)))

    @property
    def inside(self) -> bool:
        """Whether the last check was."""
        return self.spent <= self.limit

    def measure(self, flipped: Callable[[], AbstractContextManager[None]]) -> None:
        """What is spent now, with the adapter as it would be saved."""
        views = (partial(adapters.view, self.model, name) for name in ("reference", "student"))
        with flipped():
            found = retain_kl(self.rows, *views, batch_size=self.batch_size)
        rows = np.array(found["rows"], dtype=float)
        sides = [rows, *([np.array([rows[self.parts == part].mean() for part in np.unique(self.parts)])] if len(self.parts) else [])]
        self.mean = float(rows.mean())
        self.spent = self.mean + self.errors * max(float(side.std(ddof=1)) / math.sqrt(len(side)) for side in sides)
        if not math.isfinite(self.spent):
            self.spent = math.inf
        if self.inside:
            self.kept = self.mean

    def facts(self, step: int, steps: int, way: float) -> dict[str, Any]:
        """What the report says of it; the adapter is that of `step`, or a share of the `way` from there to the last of the run's `steps`."""
        source = "retain_dataset" if len(self.parts) else "the model"
        found = {"limit": self.limit, "spent": round(self.kept, 6), "rows": len(self.rows), "from": source}
        return {**found, "step": step, "of": steps, "way": way}

    def state_dict(self) -> dict[str, Tensor]:
        """What checks have found."""
        return {"numbers": torch.tensor((self.spent, self.mean, self.kept), dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what a `state_dict` says."""
        self.spent, self.mean, self.kept = state["numbers"].tolist()
