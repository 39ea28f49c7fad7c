"""A8, composition: this adapter together with further ones, as after several requests to forget; the first request is scored again.

Active adapters add up, so the sum is exact, as PEFT's concatenation is; its other ways to combine adapters are not.
"""

from pathlib import Path

from peft_unlearn.attacks.context import Attack, Context, Shown, Unmade, recalled
from peft_unlearn.model import adapters


def run(context: Context) -> list[Shown]:
    model = context.adapted
    if not context.others:
        raise Unmade("no further adapters were named (--with)")
    names = [f"other{number}" for number in range(len(context.others))]
    active = list(model.base_model.active_adapters)
    found = []
    try:
        for name, folder in zip(names, context.others, strict=True):
            model.load_adapter(folder, name)
        for count in range(1, len(names) + 1):
            with adapters.activated(model, [*active, *names[:count]]):
                said = ", ".join(Path(folder).name for folder in context.others[:count])
                found += recalled(f"together with {said}", context.recall(), line="composition")
    finally:
        for name in names:
            if name in model.peft_config:
                model.delete_adapter(name)
    return found


ATTACK = Attack("composition", "Several forgetting adapters together", quick=False, run=run)
