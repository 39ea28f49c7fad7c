"""Objectives: what a run minimizes, each a loss on one of the two streams with a gradient of its own."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from datasets import Dataset
from torch import Tensor

from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.losses.log_odds import log_odds
from peft_unlearn.losses.nll import nll
from peft_unlearn.losses.rmu import hidden_distance
from peft_unlearn.model import instead
from peft_unlearn.model.logprobs import Dense, OfLogits, Scores, from_anchor, matched, row_means, spread, true_logps
from peft_unlearn.util.parts import Loss
from peft_unlearn.util.registry import LOSSES, openunlearning_losses

ABOVE = 0.1  # nats above a retain token's log-probability before training within which the hinge lets go of it
INSTEAD = 0.1  # of `answers_coef`, what a never-seen model would say instead of each token; more lifts unseen text as well (docs/log.md)
LIKELY = 0.7  # probability to which each token of another answer is taught; more would be surer than who never saw the question

Function = Callable[[Scores, Any], Tensor]  # of the student's scores, and the anchor's
Unit = Literal["token", "sequence", "batch"]


@dataclass(frozen=True)
class Objective:
    """A loss summed over one micro-batch of one stream; the trainer divides by the global number of its tokens or sequences.

    One that is a mean already is `per` batch: the trainer divides by the number of micro-batches, in all processes together.
    `function` maps the student's scores, and those of `anchor` where it has one, to a scalar. What it reads of the logits is computed with the
    scores, by `of_logits`, and stands there under the objective's name.
    """

    name: str
    stream: Literal["forget", "retain", "holdout", "answers"]
    coef: float
    function: Function
    per: Unit = "token"
    anchor: str | None = None  # the view whose scores it needs, such as "teacher" or "reference"
    of_logits: OfLogits | None = None
    anchor_logps: bool = False  # whether it reads log-probabilities of the anchor


def remembered(logps: Tensor, mask: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """What is still to be forgotten: (B, T) tokens and (B,) rows, as booleans.

    A row has been forgotten once the geometric mean of its token probabilities is under `floor`. A token has been forgotten once its own is
    under floor squared, and counts for no less in that mean: so no few tokens, driven down without end, can hide that the others still stand
    (measured under gradient ascent: extraction strength .055 without this, .000 with it, at the same floor). At floor 0 nothing ever leaves.
    """
    lowest = 2 * math.log(floor) if floor else -math.inf
    rows = row_means(logps.clamp_min(lowest), mask).exp() >= floor
    return mask & (logps >= lowest) & rows.unsqueeze(-1), rows


def off_target(logps: Tensor, target_logps: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """How far `logps` stand above their targets, and how far below, in units of `scale`: both are traces of what was seen."""
    return ((logps - target_logps) / scale).clamp_min(0), ((target_logps - logps) / scale).clamp_min(0)


def distance(scores: Scores, scale: float) -> Tensor:
    """How far a batch's tokens are from their targets, summed, in units of `scale`: about 1 a token at the start, 0 at the targets."""
    assert scores.target_logps is not None
    return ((scores.logps.detach() - scores.target_logps).abs() * scores.mask).sum() / scale


def build(args: UnlearnConfig, scale: float = 1.0, inner_weight: Callable[[], float] = lambda: 1.0) -> list[Objective]:
    """The objectives that a configuration asks for, the forget objective first; `inner_weight` says what inner layers weigh by now."""
    loss, parameters = LOSSES[args.forget_loss], cast(dict[str, Any], args.forget_loss_args)
    openunlearnings = args.definitions == "openunlearning"
    per: Unit = "batch" if openunlearnings else "token"
    forget = (
        _of_openunlearning(openunlearning_losses("forget_loss")[args.forget_loss], **parameters)
        if openunlearnings
        else _forget(args, loss, parameters, scale, inner_weight)
    )
    anchor = "reference" if loss.reference else None
    of_logits = _of_logits(loss, parameters) if "logits" in loss.reads and not openunlearnings else None
    anchor_logps = "ref_logps" in loss.reads
    objectives = [
        Objective("forget", "forget", args.forget_coef, forget, per if openunlearnings else loss.per, anchor, of_logits, anchor_logps)
    ]
    if args.retain_loss != "none":
        retain = _of_openunlearning(openunlearning_losses("retain_loss")[args.retain_loss]) if openunlearnings else _retain(args)
        anchor = "reference" if args.retain_loss in ("hidden", "hinge") else None
        objectives.append(
            Objective("retain", "retain", args.retain_coef, retain, per, anchor, hinge if args.retain_loss == "hinge" else None)
        )
    if args.retain_kl != "none":
        objectives.append(
            Objective(
                "kl", "retain", args.kl_coef, _of_openunlearning(openunlearning_losses("retain_kl")["reference"]), per, args.retain_kl
            )
            if openunlearnings
            else _divergence(args, "kl", "retain", args.retain_kl)
        )
    if args.holdout_kl != "none":
        # As the run was given it: the reference may know what earlier requests have made forgotten.
        anchor = "given" if args.holdout_kl == "reference" else args.holdout_kl
        objectives.append(_divergence(args, "holdout", "holdout", anchor))
    if says_instead(args):
        objectives.append(
            Objective("instead", "forget", INSTEAD * args.answers_coef, _instead, anchor="never_seen", of_logits=instead.divergence)
        )
    if teaches_answers(args):
        objectives.append(Objective("answers", "answers", args.answers_coef, _taught))
    return objectives


def of_rows(built: Sequence[Objective], trained: Mapping[str, Dataset]) -> list[Objective]:
    """Those that a run's rows have what they need for: their stream, and what a never-seen model would say instead."""
    missing = "instead" not in trained["forget"].column_names
    return [o for o in built if o.stream in trained and not (missing and o.anchor == "never_seen")]


def teaches_answers(args: UnlearnConfig) -> bool:
    """Whether other answers have a stream of their own. A preference loss has them beside its forget rows."""
    return args.answers != "none" and not LOSSES[args.forget_loss].alternate


def says_instead(args: UnlearnConfig) -> bool:
    """Whether what a never-seen model would say instead of each token is learned, where a retain loss stands beside it.

    The mean teacher has none: with it, its retain set stood 1.2 to 1.7 tolerances short for 400 steps of the demo.
    """
    return args.stop_at == "never_seen" and args.answers == "natural" and args.retain_loss != "none"


def awaited(args: UnlearnConfig, trained: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """The other answers, where a run goes on until they are said. A never-seen model's own, beside its targets for each token, need no more."""
    said = args.answers != "natural" or args.stop_at == "auto"
    return {"answers": trained["answers"]} if said and "answers" in trained else {}


def hidden_layer(args: UnlearnConfig, depth: int) -> int | None:
    """After how many of a model's `depth` layers its hidden states are read; None where no objective reads them."""
    reads = LOSSES[args.forget_loss].hidden or args.retain_loss == "hidden"
    return args.hidden_layer or max(1, depth // 4) if reads else None


def _forget(args: UnlearnConfig, loss: Loss, parameters: dict[str, Any], scale: float, inner_weight: Callable[[], float]) -> Function:
    """The forget loss, less what is forgotten, or weighted by the distance from the targets."""

    def forget(scores: Scores, anchor: Scores | None) -> Tensor:
        losses = (
            scores.of_logits["forget"] if "logits" in loss.reads else loss.function(*_readings(scores, anchor, loss.reads), **parameters)
        )
        logps, mask = scores.logps.detach(), scores.mask
        if loss.per == "sequence":
            if scores.target_logps is None:
                return (losses * remembered(logps, mask, args.forget_floor)[1]).sum()
            above, below = off_target(row_means(logps, mask), row_means(scores.target_logps, mask), scale)
            return (losses * above).sum() + (row_means(nll(scores.logps), mask) * below).sum()
        losses = losses if losses.dim() == 2 else spread(losses, mask)
        if scores.target_logps is None:
            return (losses * remembered(logps, mask, args.forget_floor)[0]).sum()
        above, below = off_target(logps, scores.target_logps, scale)
        return (losses * mask * above).sum() + (nll(scores.logps) * mask * below).sum()

    if args.logit_lens_coef:
        return lambda scores, anchor: forget(scores, anchor) + args.logit_lens_coef * inner_weight() * _inner(scores, scale, loss.per)

    return forget


def _inner(scores: Scores, scale: float, per: Unit) -> Tensor:
    """What an inner layer knows beyond the targets. One-sided: no layer is to know more than the last one shall, and each may know less."""
    assert scores.inner is not None
    assert scores.target_logps is not None
    logps = scores.inner.detach()
    above, _ = off_target(logps, matched(scores.target_logps, logps, scores.mask), scale)
    losses = log_odds(scores.inner) * above
    return (row_means(losses, scores.mask) if per == "sequence" else losses * scores.mask).sum()


def _retain(args: UnlearnConfig) -> Function:
    def retain(scores: Scores, anchor: Scores | None) -> Tensor:
        if args.retain_loss == "nll":
            return (nll(scores.logps) * scores.mask).sum()
        if args.retain_loss == "hinge":
            return scores.of_logits["retain"].sum()
        return hidden_distance(*_readings(scores, anchor, ("hidden", "ref_hidden"))).sum()

    return retain


def hinge(logits: Tensor, targets: Tensor, anchor: Tensor | None) -> Tensor:
    """How much less likely each true token is than before, in nats: (N, V), (N,), (N, V) of the reference -> (N,).

    Cross-entropy up to there, nothing from `ABOVE` nats on, and between them its slope goes from 1 to 0: a corner would part runs that differ by
    rounding.
    """
    assert anchor is not None
    lost = true_logps(anchor, targets) - true_logps(logits, targets)
    return torch.where(lost > 0, lost + ABOVE / 2, (lost + ABOVE).clamp_min(0).square() / (2 * ABOVE))


def _taught(scores: Scores, anchor: Scores | None) -> Tensor:
    """Cross-entropy of other answers, less and less in the last nat before a token is likely enough: at `LIKELY` greedy decoding says it."""
    logps = scores.logps
    return (nll(logps) * (math.log(LIKELY) - logps.detach()).clamp(0, 1) * scores.mask).sum()


def _instead(scores: Scores, anchor: Scores | None) -> Tensor:
    """Divergence of all but the true token from what a never-seen model would say instead, weighted by how often it would."""
    assert scores.target_logps is not None
    return (spread(scores.of_logits["instead"], scores.mask) * -scores.target_logps.clamp_max(-1e-6).expm1() * scores.mask).sum()


def _divergence(args: UnlearnConfig, name: str, stream: Literal["retain", "holdout"], anchor: str) -> Objective:
    """Of each token's distribution from the anchor's, summed."""
    of_logits = from_anchor(args.divergence)
    return Objective(name, stream, args.kl_coef, lambda scores, _: scores.of_logits[name].sum(), anchor=anchor, of_logits=of_logits)


def _of_logits(loss: Loss, parameters: dict[str, Any]) -> OfLogits:
    """A loss that reads logits, of a chunk of them."""

    def of_logits(logits: Tensor, targets: Tensor, anchor_logits: Tensor | None) -> Tensor:
        given = {"logits": logits, "targets": targets, "ref_logits": anchor_logits}
        losses: Tensor = loss.function(*(given[name] for name in loss.reads), **parameters)
        return losses

    return of_logits


def _of_openunlearning(loss: Loss, **parameters: Any) -> Function:
    """A loss of OpenUnlearning's on everything that the micro-batch gave."""

    def whole(scores: Scores, anchor: Scores | None) -> Tensor:
        read = _readings(cast(Dense, scores.dense), None if anchor is None else anchor.dense, loss.reads)
        value: Tensor = loss.function(*read, **parameters)
        return value

    return whole


def _readings(scores: Scores | Dense, anchor: Scores | Dense | None, names: tuple[str, ...]) -> list[Any]:
    """What a loss reads, by the names of its parameters: a field of the student's scores, with ref_ of the anchor's, with alt_ of the alternates'."""
    found = []
    for name in names:
        field, source = name, scores
        if field.startswith("alt_"):
            field, source = field.removeprefix("alt_"), cast(Scores, scores.alternate)
        if field.startswith("ref_"):
            field = field.removeprefix("ref_")
            source = cast(Scores, cast(Scores, anchor).alternate if name.startswith("alt_") else anchor)
        found.append(getattr(source, field))
    return found
