"""Whether a machine without a GPU can hold a run at all."""

from typing import Any

import torch
from accelerate.utils import get_max_memory
from transformers import PreTrainedConfig
from trl import get_peft_config  # type: ignore[attr-defined]

from peft_unlearn.config.recipe import Recipe
from peft_unlearn.model import adapters, loading, prequantized
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.gguf import is_gguf

GB = 1e9  # bytes, as memory is sold and free disk space counted
FP32 = 4


def check(recipe: Recipe) -> None:
    """See that this machine has memory for the weights of a run on its CPU, and for the adapter with its gradient. Nothing is loaded.

    No run can do without these. It is no estimate of what one takes: what might just fit is never refused.

    Raises:
        UserError: less memory is available.
    """
    name = recipe.model.model_name_or_path or ""
    if recipe.training.device.type != "cpu":
        return
    config = loading.config(name, revision=recipe.model.model_revision)
    needed, available = least(recipe, config), get_max_memory()["cpu"]
    if needed > available:
        smaller = ", ".join(_smaller(recipe))
        raise UserError(
            f"model_name_or_path: the weights of {name!r} and the adapter take {needed / GB:.1f} GB, and this machine has {available / GB:.1f} GB "
            f"of memory available; write {smaller}a smaller model, or train on a GPU."
        )


def least(recipe: Recipe, config: PreTrainedConfig) -> int:
    """Bytes of the base's weights as the recipe holds them, or fewer, and of the adapter that it makes, its teacher and a gradient."""
    model, args = recipe.model, recipe.training
    if prequantized.method(config) is not None:
        return 0  # its shapes are another library's
    base = loading.skeleton(config, model.model_name_or_path or "")
    weights = sum(p.numel() for p in base.parameters()) * _bytes(recipe, config)
    if model.adapter_name_or_path:
        return int(weights)
    peft_config: Any = get_peft_config(model)
    with torch.device("meta"):
        adapter = adapters.adapter_parameters(adapters.attach(base, peft_config))
    return int(weights + FP32 * sum(p.numel() for p in adapter) * (2 + (args.teacher_decay is not None)))


def _bytes(recipe: Recipe, config: PreTrainedConfig) -> float:
    """Of a weight, at the least."""
    model = recipe.model
    if model.load_in_4bit or model.load_in_8bit:
        return 0.5 if model.load_in_4bit else 1.0
    dtype = config.dtype or torch.float32 if model.dtype == "auto" else getattr(torch, str(model.dtype))
    return float(dtype.itemsize)


def _smaller(recipe: Recipe) -> list[str]:
    """What to write instead, each with what goes on after it."""
    model = recipe.model
    if model.load_in_4bit:
        return [""]
    half = [] if model.load_in_8bit or model.dtype in ("bfloat16", "float16") else ["dtype: bfloat16"]
    return [*half, *([] if is_gguf(model.model_name_or_path or "") else ["load_in_4bit: true"]), ""]
