"""Merge LoRA adapters into the 16/32-bit weights of their base, shard by shard on the CPU.

The change W + scaling * B A is computed in fp32 in blocks of rows and rounded once. It never goes into quantised weights: an in-place merge
into NF4 keeps some 2 % of a change of 1-2 % of the weights (docs), while a merge into bf16 that is quantised afterwards keeps nearly all.
"""

import dataclasses
import json
import math
import warnings
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, load_peft_weights
from peft.tuners.lora import Embedding, Linear, LoraLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from safetensors import SafetensorError
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from peft_unlearn.deploy import shards
from peft_unlearn.errors import UserError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PREFIX = "base_model.model."  # of every key in a PEFT file
BLOCK = 2**23  # weight entries that are in fp32 at a time: 32 MB each for the old, the change and the new ones

# Inits that leave the base as it was; the others train against a base that they changed, which is not the one on disk.
KEEPS_BASE = (True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class MergeResult:
    """A merged folder, and for each changed tensor (by its module's name) the Frobenius norm of its change over its own."""

    folder: Path
    change: dict[str, float]


@dataclass
class Update:
    """What adapters do to parameters of the model: replace them, then add products of two thin matrices.

    products: parameter name -> pairs (rows, r), (r, columns) in fp32, the scaling in the first.
    """

    products: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=lambda: defaultdict(list))
    replaced: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        return {*self.products, *self.replaced}


def merge(
    adapter: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str | None = None,
    below: tuple[str | Path, ...] = (),
) -> MergeResult:
    """Write the base with the adapter merged into it as a plain transformers folder.

    Memory: one shard, and blocks of 2**23 entries in fp32. An interrupted merge leaves nothing under the name `output`.

    Args:
        adapter: folder (or Hub name) of a saved LoRA adapter.
        output: folder to write; it must not exist or be empty.
        base: folder or Hub name of the 16/32-bit base; by default the one that the adapter names.
        dtype: "bf16", "fp16" or "fp32" for every floating-point tensor; by default each keeps its own.
        below: adapters that the adapter was trained on top of, in order (stacked, not merged).

    Raises:
        UserError: anything that would leave part of an adapter unmerged, a quantised or damaged base, no room on the disk.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}.")
    wanted = DTYPES[dtype] if dtype else None
    folders = [shards.locate(name, [*shards.ADAPTER_FILES, *shards.TOKENIZER_FILES], key="adapter") for name in (*below, adapter)]
    configs = [adapter_config(folder) for folder in folders]
    source = base or configs[-1].base_model_name_or_path
    if not source:
        raise UserError(f"{folders[-1] / 'adapter_config.json'}: it names no base_model_name_or_path; give the base.")
    patterns = [*shards.MODEL_FILES, *shards.LICENSE_FILES, "*.safetensors", shards.INDEX]
    base_folder = shards.locate(source, patterns, key="base", revision=None if base else configs[-1].revision)
    if shards.read_json(base_folder / "config.json").get("quantization_config"):
        raise UserError(f"base: the weights in {source} are quantised themselves; give the original 16-bit weights as the base.")

    model = skeleton(base_folder)
    tensors = shards.checkpoint(base_folder)
    parameters = parameter_names(model, tensors)
    update = Update()
    for folder, config in zip(folders, configs, strict=True):
        collect(update, folder, config, skeleton(base_folder))
    untied = {
        parameters_of[0]: parameters_of[1]
        for pair in model.all_tied_weights_keys.items()
        if update.names & set(pair)
        for parameters_of in (pair, pair[::-1])
        if parameters_of[0] not in parameters and parameters_of[1] in parameters
    }
    check_complete(update, model, tensors, parameters, untied)

    size = shards.size_in_bytes(base_folder, tensors | {name: tensors[parameters[tied]] for name, tied in untied.items()}, wanted)
    with shards.written_whole(Path(output), size) as partial:
        change = write_shards(partial, base_folder, tensors, parameters, untied, update, wanted)
        shards.copy_files(base_folder, partial, [*shards.MODEL_FILES, *shards.LICENSE_FILES])
        shards.copy_files(folders[-1], partial, shards.TOKENIZER_FILES)
        write_config(partial / "config.json", dtype=wanted, untie=bool(update.names & {n for pair in model.all_tied_weights_keys.items() for n in pair}))
    return MergeResult(Path(output), change)
