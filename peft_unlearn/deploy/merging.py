"""Merge LoRA adapters into the 16/32-bit weights of their base, shard by shard on the CPU.

W + scaling * B A is computed in fp32, in blocks of rows, and rounded once. It never goes into quantised weights: an in-place merge into NF4
keeps some 2 % of a change that is 1 to 2 % of the weights, while 16-bit weights that are quantised afterwards keep nearly all of it.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from peft_unlearn.deploy import lora, shards
from peft_unlearn.errors import UserError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
BLOCK = 2**23  # entries of a weight that are in fp32 at a time: 32 MB each for the old, the change and the new ones


@dataclass(frozen=True)
class MergeResult:
    """A merged folder, and for each changed tensor (a weight goes by its module's name) the Frobenius norm of its change over its own."""

    folder: Path
    change: dict[str, float]


class Write(NamedTuple):
    """One tensor to write: its name in the file, the base's tensor that it is made from, and the model's parameter that it becomes."""

    name: str
    source: str
    parameter: str | None


def merge(
    adapter: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str | None = None,
    below: tuple[str | Path, ...] = (),
) -> MergeResult:
    """Write the base with the adapter merged into it, as a plain transformers folder with the base's shard names.

    Memory: one shard, the adapters, and blocks of 2**23 weights in fp32. An interrupted merge leaves nothing under the name `output`.

    Args:
        adapter: folder (or Hub name) of a saved LoRA adapter.
        output: folder to write, which must be new or empty.
        base: folder or Hub name of the 16/32-bit base; by default the one that the adapter names.
        dtype: "bf16", "fp16" or "fp32" for every floating-point tensor; by default each keeps its own.
        below: adapters that this one was trained on top of, each stacked and not merged.

    Raises:
        UserError: anything that would leave part of an adapter unmerged, a quantised or damaged base, no room on the disk.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}.")
    patterns = [lora.CONFIG, lora.WEIGHTS, *shards.TOKENIZER_FILES]
    folders = [shards.locate(name, patterns, key="adapter") for name in (*below, adapter)]
    configs = [lora.read_config(folder) for folder in folders]
    source = base or configs[-1].base_model_name_or_path
    if not source:
        raise UserError(f"base: {folders[-1] / lora.CONFIG} names no base_model_name_or_path; give the folder or Hub name of the base.")
    patterns = [*shards.MODEL_FILES, *shards.LICENSE_FILES, "*.safetensors", shards.INDEX]
    base_folder = shards.locate(source, patterns, key="base", revision=None if base else configs[-1].revision)
    if "quantization_config" in shards.read_json(base_folder / "config.json"):
        raise UserError(f"base: the weights of {source} are quantised themselves; give the original 16-bit weights as the base.")

    tensors = shards.checkpoint(base_folder)
    update = lora.Update()
    for folder, config in zip(folders, configs, strict=True):
        lora.collect(update, folder, config, skeleton(base_folder))
    model = skeleton(base_folder)
    writes, untied = plan(model, tensors, update)

    wanted = DTYPES[dtype] if dtype else None
    size = sum(math.prod(t.shape) * (wanted.itemsize if wanted else t.itemsize) for t in (tensors[write.source] for write in writes))
    with shards.written_whole(Path(output), size) as partial:
        change = write_shards(partial, base_folder, tensors, writes, update, wanted)
        shards.copy_files(base_folder, partial, [*shards.MODEL_FILES, *shards.LICENSE_FILES])
        shards.copy_files(folders[-1], partial, shards.TOKENIZER_FILES)
        write_config(partial / "config.json", wanted, untied)
    return MergeResult(Path(output), change)


def skeleton(folder: Path) -> PreTrainedModel:
    """The model of a folder's config on the meta device: names, shapes and ties, no memory.

    Raises:
        UserError: transformers has no causal language model for the config, or it needs code of its own.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation="eager")
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"{folder / 'config.json'}: this is no causal language model of transformers ({reason}); give another base."
        ) from error


def checkpoint_names(model: PreTrainedModel, names: dict[str, shards.Tensor]) -> dict[str, str]:
    """Parameter name -> checkpoint name, for the tensors that transformers loads as they are.

    Asks transformers for its own renaming, so that a missing "model." prefix or a renamed module is found where loading finds it.
    Parameters that are converted on loading (experts that are stacked, projections that are joined) are left out.
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    parameters = model.state_dict()
    found = {}
    for name in names:
        parameter, converted = rename_source_key(name, renamings, converters, model.base_model_prefix, parameters)
        if parameter not in parameters and name in parameters:
            parameter, converted = rename_source_key(name, [], [], model.base_model_prefix, parameters)
        if converted is None:
            found[parameter] = name
    return found


def plan(model: PreTrainedModel, tensors: dict[str, shards.Tensor], update: lora.Update) -> tuple[list[Write], bool]:
    """Which tensors to write, and whether tied weights were untied.

    Where an adapter changes one of two tied weights (head and embedding), or both differently, the merged model needs both.

    Raises:
        UserError: a weight of an adapter that is no tensor of the checkpoint.
    """
    names = checkpoint_names(model, tensors)
    parameters = {name: parameter for parameter, name in names.items()}
    writes = [Write(name, name, parameters.get(name)) for name in tensors]
    touched = [pair for pair in model.all_tied_weights_keys.items() if update.names & set(pair)]
    for pair in touched:
        for missing, there in (pair, pair[::-1]):
            if missing not in names and there in names:
                writes.append(Write(missing, names[there], missing))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}
    sources = {write.parameter: write.source for write in writes}
    for name in sorted(update.names):
        if name not in sources:
            raise UserError(
                f"base: no tensor of the checkpoint is the weight {name} that the adapter changes (experts and joined projections are "
                "converted on loading); load the base with transformers and use PEFT's merge_and_unload."
            )
        if tensors[sources[name]].shape != shapes[name]:
            raise UserError(
                f"{tensors[sources[name]].shard}: tensor {sources[name]} has shape {tensors[sources[name]].shape} and config.json "
                f"says {shapes[name]}; fetch the base again."
            )
    return writes, bool(touched)


def write_shards(
    output: Path,
    base: Path,
    tensors: dict[str, shards.Tensor],
    writes: list[Write],
    update: lora.Update,
    dtype: torch.dtype | None,
) -> dict[str, float]:
    """Write the merged shards, and their index where there are several; return the relative change of each changed tensor."""
    change: dict[str, float] = {}
    total = 0
    files = sorted({tensor.shard for tensor in tensors.values()})
    with tqdm(total=len(writes), desc="merging", unit="tensor") as bar:
        for file_name in files:
            merged = {}
            with shards.opened(base / file_name) as file:
                for write in (w for w in writes if tensors[w.source].shard == file_name):
                    weight = file.get_tensor(write.source)
                    kind = dtype if dtype and weight.is_floating_point() else weight.dtype
                    if write.parameter in update.names:
                        merged[write.name], ratio = merged_weight(weight, write.parameter, update, kind)
                        change[write.parameter.removesuffix(".weight")] = ratio
                    else:
                        merged[write.name] = weight.to(kind)
                    bar.update()
                total += sum(tensor.nbytes for tensor in merged.values())
                save_file(merged, output / file_name, metadata={"format": "pt"})
    if (base / shards.INDEX).is_file() and files != [shards.SINGLE]:
        shards.write_index(output, {write.name: tensors[write.source].shard for write in writes}, total)
    return change


def merged_weight(weight: torch.Tensor, name: str, update: lora.Update, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    """The new weight in `dtype`, and the Frobenius norm of its change, before rounding, over that of the old one.

    Raises:
        UserError: a value that is not finite, from an adapter that diverged or a dtype that cannot hold it.
    """
    new = torch.empty(weight.shape, dtype=dtype)
    start = update.replaced.get(name, weight)
    rows = max(1, BLOCK // max(1, weight[0].numel()))
    squares = [0.0, 0.0]
    for i in range(0, len(weight), rows):
        old = weight[i : i + rows].float()
        value = start[i : i + rows].to(torch.float32, copy=True)
        for left, right in update.products.get(name, []):
            value.addmm_(left[i : i + rows], right)
        new[i : i + rows] = value
        if not torch.isfinite(new[i : i + rows]).all():
            raise UserError(
                f"adapter: merged into {name} it gives values that are not finite in {dtype}; write dtype fp32, or train again."
            )
        squares[0] += torch.linalg.vector_norm(value.sub_(old)).item() ** 2
        squares[1] += torch.linalg.vector_norm(old).item() ** 2
    if squares[1] == 0:
        return new, math.inf if squares[0] else 0.0
    return new, math.sqrt(squares[0] / squares[1])


def write_config(path: Path, dtype: torch.dtype | None, untied: bool) -> None:
    """Set in a copied config.json what the merge changed, and leave every other line as the base has it."""
    config = shards.read_json(path)
    text = config.get("text_config", config)
    if dtype is not None:
        for part in (config, text):
            part.pop("torch_dtype", None)  # the name that transformers < 5 wrote
            part["dtype"] = str(dtype).removeprefix("torch.")
    if untied:
        config["tie_word_embeddings"] = text["tie_word_embeddings"] = False
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
