"""Attacks: what tries to bring back what was forgotten. One file an attack; docs/audit.md says how to add one.

An attack is a function of a context, one model with its sets, to plain numbers. It runs on the model under audit and again on never-seen;
`judging` compares the two by the lines of `lines.py`.
"""

import difflib
from collections.abc import Sequence

from peft_unlearn.attacks import composition, membership, precision, prompts, relearning, sampling, sanity, scale, white_box
from peft_unlearn.attacks.context import Attack, Context, Unmade
from peft_unlearn.util.errors import UserError

__all__ = ["ATTACKS", "Attack", "Context", "Unmade", "choose"]

ATTACKS: dict[str, Attack] = {
    module.ATTACK.name: module.ATTACK
    for module in (sanity, precision, scale, relearning, prompts, sampling, white_box, membership, composition)
}


def choose(names: Sequence[str] = (), *, full: bool = False) -> list[Attack]:
    """The attacks of these names, or those of the quick set, or all if `full`; sanity always comes first.

    Raises:
        UserError: an unknown name, with the nearest known one.
    """
    for name in names:
        if name not in ATTACKS:
            nearest = difflib.get_close_matches(name, ATTACKS, n=1, cutoff=0.0)[0]
            raise UserError(f"attacks: {name!r} is none, did you mean {nearest}? There are {', '.join(ATTACKS)}.")
    wanted = {"sanity", *names} if names else {name for name, attack in ATTACKS.items() if attack.quick or full}
    return [attack for name, attack in ATTACKS.items() if name in wanted]
