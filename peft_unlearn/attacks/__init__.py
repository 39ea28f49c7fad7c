"""Attacks: what tries to bring back what was forgotten. One file an attack; docs/howto/add-an-attack.md says how to add one.

An attack is a function of a context, one model with its sets, to plain numbers. It runs on the model under audit and again on the never-seen model;
`judging` compares the two by `report.thresholds`.
"""

import difflib
from collections.abc import Sequence

from peft_unlearn.attacks.context import Context, Shown, Skipped, number, recalled, shown
from peft_unlearn.util import registry
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.parts import Attack

__all__ = ["ATTACKS", "Attack", "Context", "Shown", "Skipped", "choose", "number", "recalled", "shown"]

# In the order in which they are made: sanity comes first, those of other packages last.
ATTACKS: dict[str, Attack] = dict(sorted(registry.ATTACKS.items(), key=lambda entry: entry[1].order))


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
