"""A forward that stops before the head, and the head by itself, so that the logits of a whole batch never exist.

With a vocabulary of 128 256 the logits of 2 048 tokens take 1.05 GB in fp32, and a loss with its gradient holds four or five such tensors.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

ELEMENTS = 1 << 24  # logits of a chunk, 67 MB of each fp32 temporary: 130 tokens where the vocabulary has 128 256

Readout = Callable[[Tensor], Tensor]  # (n, H) hidden states -> (n, V) logits


class Head(NamedTuple):
    """From last hidden states to logits. It is frozen, and the same under every adapter, unless it is `trained`."""

    logits: Readout  # in fp32
    vocabulary: int
    trained: bool = False  # then what it is given are logits already, with the gradients of whatever made them

    @property
    def at_once(self) -> int:
        """Tokens whose logits may exist at a time."""
        return max(1, ELEMENTS // self.vocabulary)


class Forward(NamedTuple):
    """What a forward gave: `head.logits(states[i, t])` are those after token t of row i."""

    states: Tensor  # (B, S, H) in the model's dtype
    head: Head
    output: Any = None  # the model's own, with logits of the last position or of none


def forward(model: nn.Module, **inputs: Any) -> Forward:
    """Run `model` on `input_ids`, `attention_mask`, ... up to its head.

    Whatever a model makes of its last hidden states (a tied or quantized head, scaling, soft-capping) is its own code: the head is its forward
    with these states in place of what its body would give; the first forward of a model shows whether that is so. Where it is not, where what
    follows the body is trained or has an adapter, or where the model is none of transformers', `states` are the logits themselves.
    """
    causal = causal_model(model)
    body = causal.get_decoder() if isinstance(causal, PreTrainedModel) else None
    seen: list[tuple[Any, tuple[bool, torch.dtype]]] = []
    places = _PLACES.get(causal, 1)
    if body is None or body is causal or places is None or _head_is_trained(causal, body):
        return _whole(model, inputs)
    device = inputs["input_ids"].device.type
    hook = body.register_forward_hook(
        lambda _module, _inputs, output: seen.append((output, (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))))
    )
    try:
        output = model(**inputs, use_cache=False, logits_to_keep=places)
    finally:
        hook.remove()
    if not seen or isinstance(seen[-1][0], Tensor):  # what transformers takes for the body is not what the model runs, or only a part of it
        return _whole(model, inputs)
    (given, (autocast, dtype)) = seen[-1]
    states, kind = given[0], type(given)  # and no more of it: the head lives as long as what was made with it

    def logits(states: Tensor, **kept: Any) -> Tensor:
        alone = (states[None],) if issubclass(kind, tuple) else kind(last_hidden_state=states[None])
        ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
        with _giving(body, alone), torch.autocast(device, dtype=dtype, enabled=autocast):
            found: Tensor = causal(input_ids=ids, use_cache=False, **kept).logits[0].float()
            return found

    if causal not in _PLACES:
        stands = _stands_alone(logits, states, output.logits)
        _PLACES[causal] = _fewest(logits, states, output.logits.shape[-1]) if stands else None
    return Forward(states, Head(logits, output.logits.shape[-1]), output) if _PLACES[causal] is not None else _whole(model, inputs)


# What a model's forward may leave of its logits: those of no position, or of one; None where its head does not stand alone.
_PLACES: "weakref.WeakKeyDictionary[nn.Module, Tensor | int | None]" = weakref.WeakKeyDictionary()


@torch.no_grad()
def _fewest(head: Callable[..., Tensor], states: Tensor, vocabulary: int) -> Tensor | int:
    """No position where the model takes that, or one, whose logits for each row of a batch read all of the head's weights."""
    none = torch.zeros(0, dtype=torch.long, device=states.device)
    try:
        return none if head(states[0, -1:], logits_to_keep=none).shape == (0, vocabulary) else 1
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError):
        return 1


@torch.no_grad()
def _stands_alone(head: Readout, states: Tensor, logits: Tensor) -> bool:
    """Whether a head makes the model's logits of the last states and of nothing else: (B, S, H), (B, 1, V) or (B, S, V)."""
    try:
        found, expected = head(states[0, -1:])[0], logits[0, -1].float()
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError):  # it asks for what the body gave besides
        return False
    if found.is_meta:  # as far as shapes tell
        return found.shape == expected.shape
    spread = float(expected[expected.isfinite()].std())  # 16 bits round
    return torch.allclose(found, expected, rtol=0.02, atol=0.02 * spread, equal_nan=True)


def _whole(model: nn.Module, inputs: dict[str, Any]) -> Forward:
    output = model(**inputs, use_cache=False)
    return Forward(output.logits, Head(Tensor.float, output.logits.shape[-1], trained=True), output)


def causal_model(model: nn.Module) -> nn.Module:
    """The causal model inside adapters and DistributedDataParallel."""
    inner = getattr(model, "module", model)
    return inner.get_base_model() if isinstance(inner, PeftModel) else inner


def _head_is_trained(causal: PreTrainedModel, body: nn.Module) -> bool:
    """Whether anything after the body is trained, or other under one adapter than under another."""
    after = [child for child in causal.children() if child is not causal.base_model and child is not body]
    after += [head] if (head := causal.get_output_embeddings()) is not None else []
    return any(
        isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) or any(p.requires_grad for p in module.parameters(recurse=False))
        for child in after
        for module in child.modules()
    )


@contextlib.contextmanager
def _giving(body: nn.Module, output: Any) -> Iterator[None]:
    """`body` gives `output` whatever it is called with."""
    own = body.__dict__.get("forward")  # of accelerate's hooks
    body.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        if own is None:
            del body.forward
        else:
            body.forward = own
