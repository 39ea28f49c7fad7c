"""Targets of a run once more: how they move with the holdout, and how checks correct them."""

import math

import torch

from peft_unlearn.training import early_stop


def fewest(answer):
    """How many tokens are 40 % of an answer."""
    return max(1, int(0.4 * answer))


def average(values):
    return sum(values) / len(values)


def moved_by(now, then):
    """How far unseen text has moved; where it has become likelier, half of that way on a scale of logs."""
    grown = average(now) / average(then)
    return grown if grown > 1 else math.exp(math.log(grown) / 2)


def corrected(target_logps, answer, shift, least, rest):
    """A row's targets, moved with the holdout; the least likely 40 % of its answer and the others are corrected as well."""
    lowest = sorted(range(answer), key=lambda t: target_logps[t].item())[: fewest(answer)]
    return torch.stack([target * shift * (least if t in lowest else rest) for t, target in enumerate(target_logps)])


def correction(before, missing):
    """A correction after a check that found a factor missing: half of that is added, on a scale of logs."""
    low, high = (math.log(bound) for bound in early_stop.CORRECTION)
    more = early_stop.GAIN * min(high, max(low, math.log(missing))) if missing > 0 else early_stop.GAIN * low
    return math.exp(min(high, max(low, math.log(before) + more)))
