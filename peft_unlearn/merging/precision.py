"""Between which precisions a merge goes: from the weights as they are or as training saw them, into 16/32 bit or quantized ones."""

from dataclasses import dataclass

import torch
from transformers import BitsAndBytesConfig

from peft_unlearn.merging import quantized
from peft_unlearn.merging.base import Base
from peft_unlearn.util.errors import UserError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
ONTO = ("original", "dequantized")


@dataclass(frozen=True)
class Precision:
    """start: how the weights of a 16/32-bit base are put through quantization before merging, or None. held: how the result is written.

    onto, written: the same in a word, such as "original" and "nf4".
    """

    start: quantized.Format | None
    held: quantized.Format
    onto: str
    written: str


def decide(
    base: Base,
    *,
    dtype: str | None,
    quantize: str | None,
    onto: str,
    trained: tuple[BitsAndBytesConfig | None, torch.dtype | None] | None,
    force: bool,
) -> Precision:
    """See `merging.merge` for the arguments.

    Raises:
        UserError: an unknown word, a merge in place without force, or onto a quantization that there was not.
    """
    for key, value, choices in (("to", dtype, (None, *DTYPES)), ("quantize", quantize, (None, *quantized.KINDS)), ("onto", onto, ONTO)):
        if value not in choices:
            raise UserError(f"{key}: {value!r} is not one of {', '.join(filter(None, choices))}.")
    written = DTYPES[dtype] if dtype else base.dtype if base.held.config else None
    target = quantized.config_for(quantize, written or base.dtype) if quantize else None
    start: BitsAndBytesConfig | None = base.held.config
    start_dtype: torch.dtype | None = base.dtype
    if start is not None and onto == "original":
        if not force:
            raise UserError(
                f"base: its weights are quantized themselves ({quantized.kind_of(start)}), and a merge in place can erase most of an adapter; "
                "give the 16-bit weights as --base ORIGINAL, or write --onto dequantized for 16-bit weights made of these, or "
                "--force."
            )
        target = target or start
    elif start is None and onto == "dequantized":
        start, start_dtype = trained or (quantized.config_for("nf4", base.dtype), base.dtype)
        if start is None:
            raise UserError(
                "onto: this run's base was not quantized as it was loaded, says recipe.yaml; leave --onto out, or give a base that is quantized "
                "on the disk as --base."
            )
    if start is not None and target is not None and quantized.kind_of(start) == quantized.kind_of(target) and not force:
        raise UserError(
            f"quantize: {quantize} after --onto dequantized is a merge in place, which can erase most of an adapter; leave --onto out, or write "
            "--force."
        )
    on_disk = base.held.config is not None
    return Precision(
        start=None if start is None or on_disk else quantized.format_of(base.skeleton(), start, start_dtype),
        held=quantized.format_of(base.skeleton(), target, written),
        onto="original" if start is None else f"dequantized {quantized.kind_of(start)}",
        written=quantized.kind_of(target) if target else str(written or base.dtype).removeprefix("torch."),
    )
