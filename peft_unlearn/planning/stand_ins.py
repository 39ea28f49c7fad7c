"""What operations do on the meta device that would have to look at values, or that choose by the device: as CUDA does, at the worst.

Every label counts: a row is as long as it may be, and no token of it is a prompt.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from unittest import mock

import torch
import torch.nn.functional as F
from bitsandbytes.functional import name2qmap
from torch import Tensor

aten, bnb = torch.ops.aten, torch.ops.bitsandbytes

HALF = (torch.float16, torch.bfloat16)


class Ledger(Protocol):
    """What counts the tensors that a stand-in makes within an operation, as `ledger.Ledger` does."""

    padded: bool

    def add(self, tensor: Tensor, item: str) -> None: ...


def _scalar(ledger: Ledger, value: Tensor) -> bool | int | float:
    """What is asked of values is whether all of a padding mask holds."""
    if value.device.type != "meta":
        read: bool | int | float = aten._local_scalar_dense.default(value)
        return read
    return not ledger.padded if value.dtype == torch.bool else 1


class _Fused(torch.autograd.Function):
    """Attention in one kernel: it keeps its inputs, its output, laid out as its heads are joined, and a number for each query and head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        rows, heads, length, _ = query.shape
        output = query.new_empty(rows, length, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, mask, output, query.new_empty(rows, heads, length, dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def _attention(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`scaled_dot_product_attention` as CUDA does it; in 32 bits no fused kernel has groups of queries, and torch's plain one is taken."""

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **how: Any) -> Tensor:
        if query.device.type != "meta" or (how.get("enable_gqa") and query.dtype not in HALF):
            return plain(query, key, value, attn_mask=attn_mask, **how)
        mask = None if attn_mask is None else attn_mask.to(query.dtype)
        fused: Tensor = _Fused.apply(query, key, value, mask)  # type: ignore[no-untyped-call]
        return fused

    return attention


def _places(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Masks as the places where they hold, all of them."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is None or index.dtype != torch.bool:
            found.append(index)
        else:
            found += [index.new_empty(index.numel(), dtype=torch.long) for _ in index.shape]
    return found


def _index(_: Ledger, x: Tensor, indices: list[Tensor | None]) -> Tensor:
    found: Tensor = aten.index.Tensor(x, _places(indices))
    return found


def _index_put(_: Ledger, x: Tensor, indices: Any, values: Tensor, *args: Any) -> Tensor:
    return x.new_empty(x.shape)


def _index_put_(_: Ledger, x: Tensor, indices: Any, values: Tensor, *args: Any) -> Tensor:
    return x


def _nonzero(_: Ledger, x: Tensor) -> Tensor:
    """All of them."""
    return x.new_empty((x.numel(), x.dim()), dtype=torch.long)


def _copy(_: Ledger, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Results that go to the CPU stay where they are: there is no data to take along."""
    copied: Tensor = aten._to_copy.default(x, *args, **(kwargs | {"device": x.device} if x.device.type == "meta" else kwargs))
    return copied


def _grouped_mm(_: Ledger, a: Tensor, b: Tensor, offs: Tensor, bias: Tensor | None = None, out_dtype: torch.dtype | None = None) -> Tensor:
    """Products of groups of tokens with their experts' weights, in 32 bits as well, which torch's own shapes refuse."""
    groups = () if a.dim() != b.dim() else (len(offs),)
    return a.new_empty((*groups, a.shape[-2], b.shape[-1]), dtype=out_dtype or a.dtype)


def _gemm_4bit(ledger: Ledger, a: Tensor, b: Tensor, shape: list[int], *args: Any, bias: Tensor | None = None, **kwargs: Any) -> Tensor:
    """Batches of more than some hundred tokens are multiplied with the weight dequantized within the operation."""
    weight = a.new_empty(shape)
    ledger.add(weight, "activations")
    return F.linear(a, weight, bias)


def _quantized_rows(_: Ledger, a: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, Tensor | None]:
    rows = a.numel() // a.shape[-1]
    return a.new_empty(a.shape, dtype=torch.int8), a.new_empty(rows, dtype=torch.float32), a.new_empty(0, dtype=torch.long)


def _int8_mixed(
    ledger: Ledger, a: Tensor, rows: Tensor, weight: Tensor, row_stats: Tensor, stats: Tensor, outliers: Any = None, bias: Any = None
) -> tuple[Tensor, Tensor]:
    """Without outliers; the product is in int32 first."""
    product = a.new_empty((*rows.shape[:-1], weight.shape[0]), dtype=torch.int32)
    ledger.add(product, "activations")
    return a.new_empty(product.shape), a.new_empty((rows.shape[0], 0))


STAND_INS: dict[Any, Callable[..., Any]] = {
    aten._local_scalar_dense.default: _scalar,
    aten.nonzero.default: _nonzero,
    aten.index.Tensor: _index,
    aten.index_put.default: _index_put,
    aten.index_put_.default: _index_put_,
    aten._index_put_impl_.default: _index_put_,
    aten._to_copy.default: _copy,
    aten._grouped_mm.default: _grouped_mm,
    bnb.gemm_4bit.default: _gemm_4bit,
    bnb.int8_vectorwise_quant.default: _quantized_rows,
    bnb.int8_mixed_scaled_mm.default: _int8_mixed,
}


@contextlib.contextmanager
def as_on_cuda() -> Iterator[None]:
    """Attention as CUDA does it; and who asks whether autocast is on hears that it is not, where torch refuses the question on the meta device."""
    enabled, dtype, autocast = torch.is_autocast_enabled, torch.get_autocast_dtype, torch.autocast
    with (
        mock.patch.dict(name2qmap),  # a cache that would go on with tables from the meta device
        mock.patch.object(F, "scaled_dot_product_attention", _attention(F.scaled_dot_product_attention)),
        mock.patch.object(torch, "is_autocast_enabled", lambda *device: device != ("meta",) and enabled(*device)),
        mock.patch.object(torch, "get_autocast_dtype", lambda device: torch.float32 if device == "meta" else dtype(device)),
        mock.patch.object(
            torch,
            "autocast",
            lambda device_type, **how: contextlib.nullcontext() if device_type == "meta" else autocast(device_type, **how),
        ),
    ):
        yield
