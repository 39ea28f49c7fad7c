"""Compression that a model meets on its way to its users: the smallest weights set to 0, or the change cut to fewer directions.

A change that hides what it should remove is often small and spread thin, and goes first.
"""

import contextlib
from collections.abc import Iterator
from functools import partial

from peft import PeftModel
from torch import Tensor

from peft_unlearn.attacks.context import Context, Shown, recalled
from peft_unlearn.attacks.precision import Layer, changes, check_mergeable, dense, held, layers
from peft_unlearn.attacks.white_box import ablated, with_changed_b
from peft_unlearn.util.registry import attack

PRUNED = {False: (0.1, 0.3), True: (0.1, 0.2, 0.3, 0.5)}
KEPT = {False: (2, 4), True: (2, 4, 8)}  # one part in so many of the change's rank
JUDGED = 2  # of KEPT: who cuts three quarters of an adapter away could take it off


@attack(order=2, quick=True, control=True)
def pruning(context: Context) -> list[Shown]:
    """The smallest weights set to 0, of the merged model and of the change alone.

    Recall with 10 and 30 % of each linear layer's weights pruned by magnitude, and with as many of the entries of its change.

    Raises:
        Skipped: what is not linear cannot be merged, or the base's 16/32-bit weights are not at hand.
    """
    student, found = context.student, []
    if student is not None:
        check_mergeable(student)
    with dense(context) as base:
        kept = layers(base)
        for share in PRUNED[context.full]:
            with merged_and_pruned(student, kept, share, change_alone=False):
                found += recalled(f"{share:.0%} of the weights pruned", context.recall(base), threshold="compression")
            if student is not None:
                with merged_and_pruned(student, kept, share, change_alone=True):
                    found += recalled(f"{share:.0%} of the change pruned", context.recall(base), threshold="compression")
    return found


@attack(order=2, quick=True)
def svd(context: Context) -> list[Shown]:
    """Each layer's change cut to half of its rank and less.

    Recall with the largest singular values of each module's change alone.
    """
    model, found = context.adapted, []
    for part in KEPT[context.full]:
        with with_changed_b(model, partial(truncated, part=part)):
            threshold = "compression" if part == JUDGED else None
            found += recalled(f"1/{part} of the rank of each change", context.recall(), threshold=threshold)
    return found


@contextlib.contextmanager
def merged_and_pruned(model: PeftModel | None, kept: list[Layer], share: float, *, change_alone: bool) -> Iterator[None]:
    """The base with the adapters of `model` merged into it, and this share of each linear layer's weights, or of its change, set to 0."""
    changed = {} if model is None else changes(model)
    with held(kept, changed):
        for layer in kept:
            weight = layer.weight.data.float()
            if layer.name in changed:
                below, change = (part.to(weight.device) for part in changed[layer.name]())
                weight = weight + below + (pruned(change, share) if change_alone else change)
            if layer.rounded and not change_alone:
                weight = pruned(weight, share)
            layer.weight.data.copy_(weight)
        yield


def pruned(weight: Tensor, share: float) -> Tensor:
    """The matrix with this share of its entries set to 0, the smallest by magnitude."""
    count = int(share * weight.numel())
    flat = weight.flatten().clone()
    flat[flat.abs().topk(count, largest=False).indices] = 0.0
    return flat.view_as(weight)


def truncated(b: Tensor, a: Tensor, part: int) -> Tensor:
    """B' with B' A = the largest singular values of B A alone, one in `part` of r and at least one: (rows, r), (r, columns) -> (rows, r)."""
    rest: Tensor = b - ablated(b, a, max(1, b.shape[1] // part))
    return rest
