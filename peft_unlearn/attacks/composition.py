"""A8, composition: this adapter together with further ones, as after several requests to forget; the first request is scored again.

Active adapters add up, so the sum is exact, as PEFT's concatenation is; its other ways to combine adapters are not.
"""

from pathlib import Path

from peft_unlearn.attacks.context import Context, Shown, Skipped, recalled
from peft_unlearn.model import adapters, saved
from peft_unlearn.util.registry import attack


@attack(order=8)
def composition(context: Context) -> list[Shown]:
    """Several forgetting adapters together."""
    model = context.adapted
    if not context.others:
        raise Skipped("no further adapters were named (--with)")
    names = [f"other{number}" for number in range(len(context.others))]
    active = list(model.base_model.active_adapters)
    found = []
    try:
        for name, folder in zip(names, context.others, strict=True):
            saved.put(model, folder, name, key="with")
        for count in range(1, len(names) + 1):
            with adapters.activated(model, [*active, *names[:count]]):
                said = ", ".join(Path(folder).name for folder in context.others[:count])
                found += recalled(f"together with {said}", context.recall(), threshold="composition")
    finally:
        for name in names:
            if name in model.peft_config:
                model.delete_adapter(name)
    return found
