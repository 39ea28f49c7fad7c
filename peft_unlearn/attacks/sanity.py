"""A0, sanity: the adapter trained, and there was something to forget. Where a model fails it, no other attack is made."""

import torch
from peft import PeftModel, load_peft_weights
from torch import Tensor

from peft_unlearn.attacks.context import Context, Shown, number
from peft_unlearn.attacks.scale import lora_layers
from peft_unlearn.model import adapters
from peft_unlearn.util.registry import attack

# PEFT's `init_lora_weights` with B A = 0 at the start: B is 0, or orthogonal to A.
START_AT_ZERO = (True, "gaussian", "orthogonal", "eva")
# |B A| / (|B| |A|), below which nothing but fp32 rounding is left: an orthogonal start of a tiny model shows 1e-7, one step of 1e-4 from it 5e-4.
ROUNDING = 1e-5


@attack(order=0, quick=True)
def sanity(context: Context) -> list[Shown]:
    """The adapter moved, and there was something to forget.

    Share of the adapted modules that moved, and extraction strength before minus the never-seen model's.

    A module moved where its factors differ from those that training went on from; of a fresh adapter, where its change B A is not 0. How an adapter
    began whose initialization sets B A to something else is not known afterwards: then the share is NaN, and is named as not told. Where there is
    no never-seen model, the holdout's extraction strength before stands for it, or 0.
    """
    model = context.adapted
    init = model.peft_config[adapters.STUDENT].init_lora_weights
    if context.start is not None:
        moved = differ(model, load_peft_weights(context.start, device="cpu"))
        found = [number("modules that moved", "share", sum(moved) / len(moved), threshold="moved")]
    elif init in START_AT_ZERO:
        changed = [changes(b, a) for b, a in factors(model)]
        found = [number("modules that moved", "share", sum(changed) / len(changed), threshold="moved")]
    else:
        what = f"modules that moved (with init_lora_weights {init!r} the start is not known)"
        found = [number(what, "share", float("nan"), threshold="moved")]
    before = _strength(context, "before", "forget")
    never = _strength(context, "never_seen", "forget")
    if never is None:
        never = _strength(context, "before", "holdout")
    if before is not None:
        found.append(
            number("extraction strength before minus the never-seen model's", "gap", before - (never or 0.0), threshold="to_forget")
        )
    return found


def factors(model: PeftModel) -> list[tuple[Tensor, Tensor]]:
    """B (rows, r) and A (r, columns) of each module that the forgetting adapter changes; convolutions' flattened, embeddings' as they multiply."""
    found = []
    for module in lora_layers(model).values():
        if adapters.STUDENT in module.lora_embedding_B:
            found.append((module.lora_embedding_B[adapters.STUDENT], module.lora_embedding_A[adapters.STUDENT]))
        else:
            b, a = module.lora_B[adapters.STUDENT].weight, module.lora_A[adapters.STUDENT].weight
            found.append((b.flatten(1), a.flatten(1)))
    return found


def changes(b: Tensor, a: Tensor) -> bool:
    """Whether B A is more than what rounding leaves of 0."""
    b, a = b.detach().double(), a.detach().double()
    return bool((b @ a).norm() > ROUNDING * b.norm() * a.norm())


def differ(model: PeftModel, start: dict[str, Tensor]) -> list[bool]:
    """For each B of the adapter, whether it or its A is other than in the weights that training began with."""
    now = {name.replace(f".{adapters.STUDENT}", ""): parameter for name, parameter in model.named_parameters()}

    def same(name: str) -> bool:
        return name in start and torch.equal(now[name].detach().cpu().float(), start[name].float())

    names = [name.replace(f".{adapters.STUDENT}", "") for name in adapters.lora_b(model)]
    return [not (same(name) and same(name.replace("lora_B", "lora_A").replace("embedding_B", "embedding_A"))) for name in names]


def _strength(context: Context, view: str, name: str) -> float | None:
    """None where there is no such set, or no row of it has anything to measure."""
    found = context.plain.get(view, {}).get(name, {}).get("extraction_strength")
    return found["mean"] if found and found["n"] else None
