"""The memory of a run from its recipe, and of the same run with other settings."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedConfig
from transformers.training_args import OptimizerNames

from peft_unlearn.config import recipe
from peft_unlearn.model import files, loading
from peft_unlearn.model.readout import depth as layers_of
from peft_unlearn.planning.ledger import Items
from peft_unlearn.planning.step import trace
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.gguf import is_gguf

GB = 1 << 30  # bytes, as cards are sold and `nvidia-smi` counts
CARDS = (8, 12, 16, 24)  # GB
CONTEXT = 0.75 * GB  # of the CUDA context, kernels and their workspaces
FRAGMENTATION = 0.05  # of the peak: what the allocator reserves and cannot give


class Base(NamedTuple):
    """A base's config, and the numbers of layers that a step is traced with: two where the rest is a straight line through them."""

    config: PreTrainedConfig
    depths: tuple[int, ...]


@dataclass(frozen=True)
class Memory:
    """Bytes of each item at the moment of a step, in `phase`, that holds most."""

    items: Items
    phase: str

    @property
    def peak(self) -> int:
        """What torch's allocator gives at most, in bytes: `torch.cuda.max_memory_allocated`."""
        return sum(self.items.values())

    @property
    def needed(self) -> float:
        """The bytes that a card must have: the peak, what the allocator cannot use, and the CUDA context."""
        return self.peak * (1 + FRAGMENTATION) + CONTEXT

    @property
    def too_small(self) -> list[int]:
        """The cards, in GB, that do not hold it."""
        return [card for card in CARDS if self.needed > card * GB]


@dataclass(frozen=True)
class Change:
    """Other settings, or all those `together`, and the run with them."""

    settings: dict[str, Any]
    memory: Memory
    together: bool = False


def read_base(values: Mapping[str, Any]) -> Base:
    """The config of a recipe's base.

    Raises:
        UserError: no such model, or none that is a causal language model.
    """
    name = values["model_name_or_path"]
    config = loading.config(name, revision=values.get("model_revision"))
    model = loading.skeleton(config, name, attention=values.get("attn_implementation"))
    files.check(model, name)
    return Base(config, _depths(model, config.get_text_config()))


def _depths(model: nn.Module, config: Any) -> tuple[int, ...]:
    """Two small numbers of layers where all layers have the same shapes, so that each adds the same; or all of them."""
    depth = layers_of(config)
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    shapes = [[{name: tuple(p.shape) for name, p in layer.named_parameters()} for layer in stack] for stack in stacks]
    alike = bool(stacks) and all(layer == stack[0] for stack in shapes for layer in stack)
    fewest = max(2, len(set(_layer_types(config))))
    return (fewest, fewest + 1) if alike and depth > fewest + 1 else (depth,)


def _layer_types(config: Any) -> list[str]:
    return config.to_dict().get("layer_types") or []


def _shallow(config: PreTrainedConfig, depth: int) -> PreTrainedConfig:
    """The config of a model of so many layers, with one of each kind at least."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    if depth == layers_of(text):
        return config
    kinds = _layer_types(text)
    if kinds:
        text.layer_types = (list(dict.fromkeys(kinds)) + kinds)[:depth]
    text.num_hidden_layers = depth
    return config


def measure(values: Mapping[str, Any], base: Base | None = None) -> Memory:
    """The memory of the run of a recipe's values, on a GPU. Nothing is loaded but the base's config.

    Raises:
        UserError: mixed precision, or what `recipe.build`, `read_base` and `meta.build` refuse.
    """
    for key in ("bf16", "fp16"):
        if values.get(key):
            raise UserError(f"{key}: autocast cannot be planned, leave the key out; dtype: bfloat16 computes in 16 bits without it.")
    plan = recipe.build({"dtype": "bfloat16", **values})  # left out, it is what the device of a run computes in
    base = base or read_base(values)
    traces = [trace(plan, _shallow(base.config, depth)) for depth in base.depths]
    whole = layers_of(base.config)
    peaks = {phase: _extrapolated([found[phase] for found in traces], whole - base.depths[0]) for phase in traces[0]}
    phase = max(peaks, key=lambda name: sum(peaks[name].values()))
    return Memory({item: size for item, size in peaks[phase].items() if size}, phase)


def _extrapolated(items: list[Items], further: int) -> Items:
    """Items at the first depth and, where there is one, at one layer more -> at `further` layers more."""
    first, last = items[0], items[-1]
    return {item: size + further * (last.get(item, 0) - size) for item, size in first.items()}


def changes(values: Mapping[str, Any], base: Base, before: Memory) -> list[Change]:
    """Each setting that saves memory, changed alone, and last all of them together."""
    alone = [Change(settings, measure({**values, **settings}, base)) for settings in _settings(recipe.build(values))]
    alone = [change for change in alone if change.memory.peak < before.peak]
    together = {key: value for change in reversed(alone) for key, value in change.settings.items()}
    return [*alone, Change(together, measure({**values, **together}, base), together=True)] if len(alone) > 1 else alone


def _settings(plan: recipe.Recipe) -> Iterator[dict[str, Any]]:
    """What may be changed; of two ways to change the same, the one that is to hold with all the others first."""
    model, args = plan.model, plan.training
    rows, steps = args.per_device_train_batch_size, args.gradient_accumulation_steps
    if not args.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    if rows > 1:
        yield {"per_device_train_batch_size": rows // 2, "gradient_accumulation_steps": steps * rows // (rows // 2)}
    if args.max_length > 128:
        yield {"max_length": args.max_length // 2}
    if not model.load_in_4bit and not is_gguf(model.model_name_or_path or ""):
        yield {"load_in_4bit": True, "load_in_8bit": False, "use_bnb_nested_quant": True}
    elif model.load_in_4bit and not model.use_bnb_nested_quant:
        yield {"use_bnb_nested_quant": True}
    optimizer = OptimizerNames(args.optim).value
    if "adam" in optimizer and "8bit" not in optimizer:
        yield {"optim": "paged_adamw_8bit"}
        yield {"optim": "adamw_8bit"}
    if model.lora_r > 4:
        yield {"lora_r": model.lora_r // 2, "lora_alpha": model.lora_alpha // 2}
