"""A0, sanity: the adapter trained, and there was something to forget. Where it does not hold, no other attack is made."""

import torch

from peft_unlearn.attacks.context import Attack, Context, Shown, number
from peft_unlearn.model import adapters


def run(context: Context) -> list[Shown]:
    """Share of lora_B matrices that are not zero, as they start, and extraction strength before minus never-seen's: the holdout's before, or 0, where
    there is no such model."""
    matrices = adapters.lora_b(context.adapted)
    moved = sum(bool(torch.any(parameter != 0)) for parameter in matrices.values())
    found = [number("lora_B matrices that moved", "share", moved / len(matrices), line="moved")]
    before = _strength(context, "before", "forget")
    never = _strength(context, "never_seen", "forget")
    if never is None:
        never = _strength(context, "before", "holdout")
    if before is not None:
        found.append(number("extraction strength before minus never-seen", "gap", before - (never or 0.0), line="to_forget"))
    return found


def _strength(context: Context, view: str, name: str) -> float | None:
    return context.plain.get(view, {}).get(name, {}).get("extraction_strength", {}).get("mean")


ATTACK = Attack("sanity", "The adapter moved, and there was something to forget", quick=True, run=run)
