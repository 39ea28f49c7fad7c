"""The rows of a batch one behind the other, without padding, where the model gives the same for them so.

All that a model does with each token by itself, which is nearly all of its work, then costs a row's tokens and no more. Attention alone puts rows
below one another again, padded, so that its kernel stays the fastest, causal and without a mask.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from peft_unlearn.data.labels import kept_places
from peft_unlearn.model import lm_head
from peft_unlearn.model.scoring import evaluating

ATTENTION = "packed_sdpa"
FAULTS = (LookupError, TypeError, AttributeError, ValueError, RuntimeError)  # of a model that takes no such batch
LENGTHS = 9, 5, 7  # of the rows that show what a model does


@contextlib.contextmanager
def packing(model: nn.Module) -> Iterator[None]:
    """Within, `takes` is true of a model that gives the same for packed rows; others stay as they are.

    Forwards of padded batches, and what is recomputed in a backward pass, go on as they would.
    """
    config = _config(model)
    # bitsandbytes picks outlier features of 8 bits by batch, padding among it.
    int8 = getattr(lm_head.causal_model(model), "is_loaded_in_8bit", False)
    if config is None or config._attn_implementation != "sdpa" or int8:
        yield
        return
    config._attn_implementation = ATTENTION
    try:
        if not _gives_the_same(model):
            config._attn_implementation = "sdpa"
        yield
    finally:
        config._attn_implementation = "sdpa"


def takes(model: nn.Module, length: int | None = None) -> bool:
    """Whether rows of at most so many tokens are packed: attention sees all of a row, whatever window it has."""
    config = _config(model)
    if config is None or config._attn_implementation != ATTENTION:
        return False
    windows = (getattr(config, key, None) for key in ("sliding_window", "attention_chunk_size"))
    return length is None or all(window is None or length <= window for window in windows)


def forward(model: nn.Module, input_ids: Tensor, kept: Tensor, **more: Any) -> lm_head.Forward:
    """As `lm_head.forward`, with states of the kept places alone: (B, S), (N,) -> (1, N, H).

    Args:
        kept: the first places of each row, as many as are wanted but for the last, as numbers in (B, S), row by row.
    """
    rows, length = input_ids.shape
    grid = torch.arange(rows * length, device=kept.device).view(rows, length)[:, :-1].contiguous()
    padded = (torch.searchsorted(kept, grid, right=True) - 1).clamp_min(
        0
    )  # behind a row its last token: causal attention does not look there
    return lm_head.forward(
        model,
        input_ids=input_ids.flatten()[kept][None],
        position_ids=(kept % length)[None],
        attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=kept.device),  # a mask that is there already; none is made
        packed=(padded, kept - kept // length),
        **more,
    )


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    packed: tuple[Tensor, Tensor] | None = None,
    **how: Any,
) -> tuple[Tensor, None]:
    """Attention of packed rows, (1, heads, N, D) of each -> (1, N, heads, D); of any other batch, as transformers has it."""
    if packed is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **how)
        return found
    if mask is None or mask.numel() > 1 or any(isinstance(value, Tensor) for name, value in how.items() if name != "position_ids"):
        raise ValueError("a layer with a mask, a bias or a choice of keys of its own")
    padded, places = packed

    def below_one_another(tokens: Tensor) -> Tensor:
        rows = tokens[0].transpose(0, 1).index_select(0, padded.flatten())
        return rows.view(*padded.shape, *rows.shape[1:]).transpose(1, 2)

    output, _ = sdpa_attention_forward(module, *map(below_one_another, (query, key, value)), None, **how)
    return output.flatten(0, 1).index_select(0, places)[None], None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _config(model: nn.Module) -> Any:
    """That of the layers of a model of transformers, which says how they attend."""
    causal = lm_head.causal_model(model)
    body = causal.get_decoder() if isinstance(causal, PreTrainedModel) else None
    return getattr(body, "config", None)


def _gives_the_same(model: nn.Module) -> bool:
    """Whether rows of several lengths have the states, packed, that they have padded. State-space layers and ALiBi see to it that not all do."""
    config, device = _config(model), next(model.parameters()).device
    ids = torch.arange(len(LENGTHS) * max(LENGTHS)).view(len(LENGTHS), -1) * 7 % config.vocab_size
    labels = torch.stack([torch.where(torch.arange(max(LENGTHS)) < length, row, -100) for row, length in zip(ids, LENGTHS, strict=True)])
    ids, kept = ids.to(device), kept_places(labels).to(device)
    with evaluating(model):
        try:
            padded = lm_head.forward(model, input_ids=ids, attention_mask=None).states.flatten(0, 1)[kept]
            packed = forward(model, ids, kept).states[0]
        except FAULTS:
            return False
    if padded.is_meta:
        return False
    rounding = torch.finfo(padded.dtype).eps ** 0.5
    return torch.allclose(packed, padded, rtol=rounding, atol=rounding * float(padded.std()))
