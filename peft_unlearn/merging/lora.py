"""What a saved LoRA adapter does to the weights of its base, read from the adapter's folder and the base's config alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig
from peft.tuners.lora import Embedding, Linear, LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from transformers import PreTrainedModel

from peft_unlearn.model import saved
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import ADAPTER_CONFIG

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every key in a PEFT file


@dataclass
class Update:
    """What an adapter does to parameters, by their names in the model: replace some, then add products of two thin matrices.

    products: pairs of shapes (rows, r) and (r, columns), or (experts, rows, r) and (experts, r, columns), fp32, in the layout of the weight, the
        scaling in the first.
    parts: for tensors of the checkpoint that are parts of a parameter, by their own names, what gives all of their change in fp32.
    """

    products: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    replaced: dict[str, torch.Tensor] = field(default_factory=dict)
    parts: dict[str, Callable[[], torch.Tensor]] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        return {*self.products, *self.replaced, *self.parts}


def applied(weight: torch.Tensor, name: str, updates: Sequence[Update], rows: slice) -> torch.Tensor:
    """Rows of the parameter `name` in fp32 after the updates: the last replacement, or `weight`, plus every product."""
    start = next((update.replaced[name] for update in reversed(updates) if name in update.replaced), weight)
    value = start[rows].to(torch.float32, copy=True)
    for update in updates:
        if name in update.products:
            left, right = update.products[name]
            value.addmm_(left[rows], right) if left.dim() == 2 else value.baddbmm_(left[rows], right[rows])
        if name in update.parts:
            value += update.parts[name]()[rows]
    return value


def read_config(folder: Path) -> LoraConfig:
    """The adapter's config.

    Raises:
        UserError: no LoRA adapter there, or one that cannot be merged as W + scaling * B A.
    """
    for name in (ADAPTER_CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: there is no such file; give a folder with a saved LoRA adapter.")
    config = saved.config_of(str(folder), key="adapter")
    for key in ("trainable_token_indices", "lora_bias"):
        if getattr(config, key):
            raise UserError(
                f"{folder / ADAPTER_CONFIG}: an adapter with {key} cannot be merged shard by shard; use PEFT's merge_and_unload."
            )
    return config


def entries(folders: Sequence[Path], model: PreTrainedModel) -> int | None:
    """How many entries the base of adapters had, where tokens were added to it; None where it has as many as it had.

    Raises:
        UserError: adapters that were trained with different numbers of them.
    """
    own = len(model.get_input_embeddings().weight)
    found = {saved.entries_of(model, saved.weights_of(str(folder), key="adapter")) for folder in folders} - {None}
    if len(found) > 1:
        raise UserError(
            f"adapter: {folders[-1]} and the adapter below it were trained with different vocabularies; merge the one below first."
        )
    return None if found <= {own} else found.pop()


def collect(folder: Path, model: PreTrainedModel) -> Update:
    """What the adapter in `folder` does.

    `model` is the base on the meta device, and is wrapped in place: PEFT itself says which modules the config targets, with which scaling
    and in which layout, and which tensors must be in the file.

    Raises:
        UserError: what `saved.fit` refuses, or a variant of LoRA such as DoRA.
    """
    parameters = set(model.state_dict())
    wrapped = saved.fit(model, str(folder), "default", key="adapter")
    tensors = saved.without_copies(saved.weights_of(str(folder), key="adapter"))
    # PEFT saves the weight of a targeted embedding, or of one with added tokens, with the adapter, and loads it back over the base's.
    own = {key: key.removeprefix(PREFIX).replace(".base_layer.", ".") for key in tensors}
    update = Update(replaced={name: tensors[key] for key, name in own.items() if name in parameters})
    for name, module in wrapped.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            if not isinstance(module, Linear | Embedding | ParamWrapper) or module.lora_variant:
                variant = next((type(v).__name__ for v in module.lora_variant.values()), type(module).__name__)
                raise UserError(
                    f"{folder / ADAPTER_CONFIG}: {name} uses {variant}, which cannot be merged shard by shard; use PEFT's merge_and_unload."
                )
            parameter = module.parameter_name if isinstance(module, ParamWrapper) else "weight"
            update.products[f"{name.replace('.base_layer', '')}.{parameter}"] = product(module, name, tensors)
        elif isinstance(module, ModulesToSaveWrapper):
            kept = [key for key in tensors if key.startswith(f"{PREFIX}{name}.")]
            update.replaced |= {key.removeprefix(PREFIX): tensors[key] for key in kept}
        elif isinstance(module, AuxiliaryTrainingWrapper):
            raise UserError(
                f"{folder / ADAPTER_CONFIG}: {name} is a {type(module).__name__}, which cannot be merged; use PEFT's merge_and_unload."
            )
    return update


def product(layer: Linear | Embedding | ParamWrapper, name: str, tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The pair of thin matrices, or of stacks of them, whose product is the layer's change, in the layout of its weight."""
    scaling = layer.scaling["default"]
    if isinstance(layer, Embedding):  # the weight is (entries, features), the factors are (r, entries) and (features, r)
        a, b = tensors[f"{PREFIX}{name}.lora_embedding_A"].float(), tensors[f"{PREFIX}{name}.lora_embedding_B"].float()
        return scaling * a.T, b.T
    a, b = tensors[f"{PREFIX}{name}.lora_A.weight"].float(), tensors[f"{PREFIX}{name}.lora_B.weight"].float()
    if isinstance(layer, ParamWrapper) and layer.get_param().dim() == 3:  # A holds (experts x r, in), B (out, r x experts)
        a = a.view(layer.num_experts, -1, a.shape[-1])
        b = b.view(len(b), -1, layer.num_experts).permute(2, 0, 1)
        return (scaling * b, a) if layer._did_swap_in_out_features else (scaling * a.mT, b.mT)
    return (scaling * a.T, b.T) if layer.fan_in_fan_out else (scaling * b, a)
