"""Objectives: what a run minimises, each a loss on one of the two streams with a gradient of its own."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor

from peft_unlearn.config import UnlearnConfig
from peft_unlearn.logprobs import DIVERGENCES, Scores, row_probabilities
from peft_unlearn.losses import LOSSES, nll


@dataclass(frozen=True)
class Objective:
    """A loss summed over one micro-batch of one stream; the trainer divides by the global number of its tokens or sequences.

    `function` maps the student's scores, and those of `anchor` where it has one, to a scalar.
    """

    name: str
    stream: Literal["forget", "retain"]
    coef: float
    function: Callable[[Scores, Scores | None], Tensor]
    per: Literal["token", "sequence"] = "token"
    anchor: str | None = None  # the view whose scores it needs: "teacher" or "reference"


def remembered(logps: Tensor, mask: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """What is still to be forgotten: (B, T) tokens and (B,) rows, as booleans.

    A row has been forgotten once the geometric mean of its token probabilities is under `floor`. A token has been forgotten once its own is
    under floor squared, and counts for no less in that mean: so no few tokens, driven down without end, can hide that the others still stand
    (measured under gradient ascent: extraction strength .055 without this, .000 with it, at the same floor). At floor 0 nothing ever leaves.
    """
    lowest = 2 * math.log(floor) if floor else -math.inf
    rows = row_probabilities(logps.clamp_min(lowest), mask) >= floor
    return mask & (logps >= lowest) & rows.unsqueeze(-1), rows


def build(args: UnlearnConfig) -> list[Objective]:
    """The objectives that a configuration asks for, the forget objective first."""
    loss, parameters = LOSSES[args.forget_loss], cast(dict[str, Any], args.forget_loss_args)

    def forget(scores: Scores, anchor: Scores | None) -> Tensor:
        tokens, rows = remembered(scores.logps.detach(), scores.mask, args.forget_floor)
        if loss.per == "token":
            return (loss.function(scores.logps, **parameters) * tokens).sum()
        reference = None if anchor is None else anchor.logps
        return (loss.function(scores.logps, reference, scores.mask, **parameters) * rows).sum()

    def retain(scores: Scores, anchor: Scores | None) -> Tensor:
        return (nll(scores.logps) * scores.mask).sum()

    def divergence(scores: Scores, anchor: Scores | None) -> Tensor:
        assert anchor is not None
        return DIVERGENCES[args.divergence](scores.logits, anchor.logits).sum()

    objectives = [Objective("forget", "forget", args.forget_coef, forget, loss.per, "reference" if loss.reference else None)]
    if args.retain_loss != "none":
        objectives.append(Objective("retain", "retain", args.retain_coef, retain))
    if args.retain_kl != "none":
        objectives.append(Objective("kl", "retain", args.kl_coef, divergence, anchor=args.retain_kl))
    return objectives
