"""What a run on a CPU computes in where its recipe does not say: bf16 where this CPU multiplies that faster, as it is found by trying."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peft_unlearn.config import reading, recipe
from peft_unlearn.model import loading
from peft_unlearn.util.errors import UserError

logger = logging.getLogger(__name__)

SETTLED = ("dtype", "bf16", "fp16", "load_in_4bit", "load_in_8bit", "train_quantized")  # who writes one of these has decided
BF16 = {"bf16": True, "use_cpu": True}  # transformers refuses the one without the other where there is no GPU
NARROWEST = 512  # hidden size under which most of a step is not multiplication
FASTER = 1.3  # a step of SmolLM2-135M gained 1.4 times where products gained 2.2 (AMD EPYC with AVX512-BF16, one thread)
ROWS, TRIES = 256, 5


def chosen(values: Mapping[str, Any], speedup: Callable[[int], float] | None = None) -> dict[str, Any]:
    """A recipe's values, with `bf16: true` where it runs on a CPU that multiplies bf16 faster, its base is wide enough, and nothing was decided.

    A run that goes on computes as it began. Several processes might find different answers, and take none.
    """
    on_device = torch.accelerator.is_available() and not values.get("use_cpu")
    if on_device or "WORLD_SIZE" in os.environ or not values.keys().isdisjoint(SETTLED):
        return dict(values)
    begun = Path(str(values["output_dir"])) / recipe.FILE
    if begun.is_file():
        return {**values, **BF16} if reading.load(begun).get("bf16") else dict(values)
    try:
        config = loading.config(str(values["model_name_or_path"]), revision=values.get("model_revision"))
    except UserError:
        return dict(values)  # the run says what is wrong with its base, or finds the one that its adapter names
    width = getattr(config.get_text_config(), "hidden_size", 0)
    if width < NARROWEST:
        return dict(values)
    times = (speedup or measured)(width)
    if times < FASTER:
        return dict(values)
    logger.info("bf16: true, which this CPU multiplies %.1f times as fast as float32; write bf16: false to compute in float32.", times)
    return {**values, **BF16}


def measured(width: int) -> float:
    """How many times as fast as in fp32 this machine multiplies (ROWS, width) by (width, width) in bf16: of the best of some tries each, in turns."""
    sides = {dtype: (torch.randn(ROWS, width).to(dtype), torch.randn(width, width).to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(TRIES + 1):
        for dtype, (one, other) in sides.items():
            best[dtype] = min(best[dtype], _seconds(one, other))
    return best[torch.float32] / best[torch.bfloat16]


def _seconds(one: Tensor, other: Tensor) -> float:
    began = time.perf_counter()
    one @ other.T
    return time.perf_counter() - began
