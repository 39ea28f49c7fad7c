"""A0, sanity: the adapter trained, and there was something to forget. Where it does not hold, no other attack is made."""

import torch

from peft_unlearn import adapters
from peft_unlearn.attacks.context import Attack, Context, Shown, number


def run(context: Context) -> list[Shown]:
    """Share of lora_B matrices that are not zero, as they start, and extraction strength before minus never-seen's (0 where none is known)."""
    matrices = adapters.lora_b(context.adapted)
    moved = sum(bool(torch.any(parameter != 0)) for parameter in matrices.values())
    before, never = (context.plain.get(view, {}).get("forget", {}).get("extraction_strength") for view in ("before", "never_seen"))
    found = [number("lora_B matrices that moved", "share", moved / len(matrices), line="moved")]
    if before is not None and before["mean"] is not None:
        gap = before["mean"] - (0.0 if never is None or never["mean"] is None else never["mean"])
        found.append(number("before minus never-seen", "extraction_strength_gap", gap, line="to_forget"))
    return found


ATTACK = Attack("sanity", "The adapter moved, and there was something to forget", quick=True, run=run)
