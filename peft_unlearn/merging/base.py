"""The base that an adapter is merged into: its model without weights, its tensors by name, and each weight when it is asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from peft_unlearn.merging import quantized, shards
from peft_unlearn.merging.lora import Update
from peft_unlearn.model import files, loading, saved
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import read_json


@dataclass(frozen=True)
class Base:
    """A model's folder: its tensors, those that stand beside each quantized weight, the names of its parameters, and how it is held.

    names: parameter -> tensor, for the tensors that transformers loads as they are.
    parts: tensor -> the parameter that it is a part of once it is loaded: experts that are stacked, projections that are joined.
    beside: quantized weight -> the tensors that its scales lie in.
    entries: how many the model has where tokens were added for an adapter, of its `embeddings`; None where it has its own.
    """

    folder: Path
    tensors: dict[str, shards.Tensor]
    names: dict[str, str]
    parts: dict[str, str]
    beside: dict[str, list[str]]
    held: quantized.Format
    shapes: dict[str, tuple[int, ...]]
    entries: int | None = None
    embeddings: frozenset[str] = frozenset()

    @property
    def dtype(self) -> torch.dtype:
        """That of the model as transformers loads it."""
        return read_dtype(read_json(self.folder / "config.json"))

    def skeleton(self) -> PreTrainedModel:
        """The model without weights, as the adapters' base was."""
        return skeleton(self.folder, self.entries)

    def shape(self, name: str, parameter: str | None) -> tuple[int, ...]:
        """Of a weight as `read` gives it."""
        if parameter is not None and (parameter in self.held.transposed or parameter in self.embeddings):
            return self.shapes[parameter]
        return self.tensors[name].shape

    def read(self, name: str, parameter: str | None) -> torch.Tensor:
        """A weight in the layout of the model; one that is quantized on the disk is dequantized.

        Raises:
            UserError: numbers that are not finite, or a quantized weight of another shape than the model's.
        """
        tensors = {part: shards.read(self.folder, self.tensors[part], part) for part in (name, *self.beside.get(name, []))}
        weight = self.held.get(name, parameter, tensors)
        if self.entries is not None and parameter in self.embeddings:
            weight = saved.with_entries(weight, self.entries)
        if tuple(weight.shape) != self.shape(name, parameter):
            raise UserError(
                f"{self.folder / self.tensors[name].shard}: tensor {name} is worth a weight of shape {tuple(weight.shape)} and config.json "
                f"says {self.shape(name, parameter)}; fetch the base again."
            )
        if weight.is_floating_point() and weight.numel() and not torch.stack(torch.aminmax(weight)).isfinite().all():
            raise UserError(f"base: tensor {name} of {str(self.folder)!r} holds numbers that are not finite; fetch the base again.")
        return weight


def open_base(folder: Path, entries: int | None = None) -> Base:
    """Read what stands in a base's headers and config. No weight is read. It gets so many `entries` where an adapter was trained with others.

    Raises:
        UserError: no causal language model of transformers, a missing or damaged shard, weights that bitsandbytes did not quantize.
    """
    model_config = read_json(folder / "config.json")
    config = quantized.read_config(model_config)
    tensors = shards.checkpoint(folder)
    beside: dict[str, list[str]] = {}
    for name in tensors:
        weight = quantized.belongs_to(name) if config else None
        if weight is not None:
            beside.setdefault(weight, []).append(name)
    scales = {part for parts in beside.values() for part in parts}
    model = skeleton(folder, entries)
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = {id(layer.weight) for layer in layers if entries is not None and layer is not None}
    embeddings = frozenset(name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in weights)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}
    names, parts = files.checkpoint_names(model, [name for name in tensors if name not in scales])
    return Base(folder, tensors, names, parts, beside, quantized.format_of(model, config, None), shapes, entries, embeddings)


def read_dtype(model_config: Mapping[str, Any]) -> torch.dtype:
    """The dtype that a config.json names, fp32 if none; transformers < 5 wrote it as torch_dtype."""
    parts = (model_config, model_config.get("text_config", {}))
    found: torch.dtype = getattr(torch, next((part[key] for part in parts for key in ("dtype", "torch_dtype") if part.get(key)), "float32"))
    return found


def skeleton(folder: Path, entries: int | None = None) -> PreTrainedModel:
    """The model of a folder's config on the meta device, not quantized: names, shapes and ties, no memory. With so many `entries`, or its own.

    Raises:
        UserError: transformers has no causal language model for the config, or it needs code of its own.
    """
    model = loading.skeleton(loading.config(folder, key="base"), folder, key="base")
    files.check(model, folder, key="base")
    with torch.device("meta"):
        saved.resize(model, entries)
    return model


def part_by_part(base: Base, update: Update) -> Update:
    """The update with the change of each parameter that is put together or taken apart on loading as changes of the tensors of the checkpoint.

    transformers itself takes the change apart, as it takes a weight apart that it saves. All of one parameter's change is held meanwhile, in
    fp32, and of the one before: what stands side by side in a shard are a layer's experts. A change that it cannot take apart into tensors that
    are there stays as it is.
    """

    model = base.skeleton()

    def change_of(parameter: str) -> torch.Tensor:
        left, right = update.products.get(parameter, (None, None))
        return torch.zeros(base.shapes[parameter]) if left is None or right is None else left @ right

    def taken_apart(changes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = revert_weight_conversion(model, changes)
        return found

    @lru_cache(maxsize=2)
    def changes(parameter: str) -> dict[str, torch.Tensor]:
        return taken_apart({one: change_of(one) for one in of_same[parameter]})

    def part_of(parameter: str, name: str) -> torch.Tensor:
        return changes(parameter)[name]

    of_same = {parameter: files.together(model, parameter) for parameter in set(base.parts.values())}
    parts: dict[str, Callable[[], torch.Tensor]] = {}
    for parameter in (first for first, others in of_same.items() if update.products.keys() & set(others)):
        empty = {one: torch.empty(base.shapes[one], device="meta") for one in of_same[parameter]}
        shapes = {name: part.shape for name, part in taken_apart(empty).items()}
        own = {name: torch.Size(base.tensors[name].shape) for name, whole in base.parts.items() if whole == parameter}
        if shapes == own:
            parts |= {name: partial(part_of, parameter, name) for name in own}
    rest = update.products.keys() - {one for part in parts for one in of_same[base.parts[part]]}
    return Update({name: update.products[name] for name in rest}, update.replaced, parts)
