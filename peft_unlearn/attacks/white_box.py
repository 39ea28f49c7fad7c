"""A6, white box: what inner layers recall, and what comes back without the strongest directions of each layer's change.

A change that only blocks the way out lies in a few directions; without these the rest stands as it was. Reported, without a threshold: whoever
can cut directions out can take the adapter off as well. The inner layers have their threshold in the verdict (`lens`).
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from peft import PeftModel
from torch import Tensor

from peft_unlearn.attacks.context import Context, Shown, recalled, shown
from peft_unlearn.attacks.scale import lora_layers
from peft_unlearn.metrics.logit_lens import logit_lens
from peft_unlearn.model import adapters
from peft_unlearn.util.registry import attack

DIRECTIONS = {False: (1, 4), True: (1, 2, 4, 8)}


@attack(order=6, quick=True, name="white-box")
def white_box(context: Context) -> list[Shown]:
    """The strongest directions of each layer's change cut out."""
    model = context.adapted
    rows = context.probes["forget"].rows
    found = []
    for count in DIRECTIONS[context.full]:
        with with_changed_b(model, partial(ablated, count=count)):
            what = f"without {count} direction{'s' * (count > 1)} of each change"
            found += recalled(what, context.recall())
            if context.full:
                lens = logit_lens(model, context.tokenizer, rows, batch_size=context.batch_size)
                found.append(shown(what, "logit_lens", lens))
    return found


@contextlib.contextmanager
def with_changed_b(model: PeftModel, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """The forgetting adapter with `change(B, A)` for each module's B; embeddings are left as they are."""
    factors = [
        (module.lora_B[adapters.STUDENT].weight, module.lora_A[adapters.STUDENT].weight)
        for module in lora_layers(model).values()
        if adapters.STUDENT in module.lora_B
    ]
    own = [b.data for b, _ in factors]
    try:
        for b, a in factors:
            b.data = change(b.data, a.data)
        yield
    finally:
        for (b, _), data in zip(factors, own, strict=True):
            b.data = data


def ablated(b: Tensor, a: Tensor, count: int) -> Tensor:
    """B' with B' A = B A without its `count` largest singular values: (rows, r), (r, columns) -> (rows, r).

    With U the left singular vectors of B A that go, B' = (I - U U^T) B; U comes from the QR factors of B and A^T, which are thin.
    """
    q, upper = torch.linalg.qr(b.float())
    _, other = torch.linalg.qr(a.float().T)
    left, _, _ = torch.linalg.svd(upper @ other.T)
    gone = q @ left[:, :count]
    rest: Tensor = b.float() - gone @ (gone.T @ b.float())
    return rest.to(b.dtype)
