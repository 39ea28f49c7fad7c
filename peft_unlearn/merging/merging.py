"""Merge LoRA adapters into their base, shard by shard on the CPU, into 16/32-bit weights or quantized ones.

W + scaling * B A is computed in fp32, in blocks of rows, rounded once, and then quantized if asked for. In place into quantized weights
(dequantize, add, quantize again) only by force: NF4 keeps some 2 % of a change that is 1 to 2 % of the weights that way, while 16-bit weights
that are quantized afterwards keep nearly all of it. How much was kept is measured on what is written.
"""

import contextlib
import json
import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import BitsAndBytesConfig, PreTrainedModel

from peft_unlearn.merging import lora, shards
from peft_unlearn.merging.base import Base, open_base, part_by_part, skeleton
from peft_unlearn.merging.precision import decide
from peft_unlearn.merging.quantized import Format
from peft_unlearn.merging.survival import Survival, as_json
from peft_unlearn.merging.weights import Merger, Write
from peft_unlearn.model import loading
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import ADAPTER_CONFIG, check_base, check_room, locate, read_json, same_model
from peft_unlearn.util.redaction import public_name

logger = logging.getLogger(__name__)

REPORT = "merge.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")  # where either lies, what is merged has a tokenizer, which shall load
BASE_FILES = [*shards.MODEL_FILES, *shards.LICENSE_FILES, "*.safetensors", shards.INDEX]


@dataclass(frozen=True)
class MergeResult:
    """A merged folder, and what survived of the change of each weight that the adapter touches (a weight goes by its module's name)."""

    folder: Path
    survival: dict[str, Survival]
    base: str  # folder or Hub name
    written: str  # what its weights are, such as "bf16" or "nf4"


def merge(
    adapter: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    onto: str = "original",
    trained: tuple[BitsAndBytesConfig | None, torch.dtype | None] | None = None,
    force: bool = False,
    below: tuple[str | Path, ...] = (),
    revision: str | None = None,
) -> MergeResult:
    """Write the base with the adapter merged into it, as a plain transformers folder with the base's shard names, and a merge.json in it.

    Memory: one shard, the adapters, of one weight at a time blocks of 2**23 entries, or all of it where it is quantized, and of experts the change
    of a layer in fp32. An interrupted merge leaves nothing under the name `output`.

    Args:
        adapter: folder (or Hub name) of a saved LoRA adapter.
        output: folder to write, which must be new or empty.
        base: folder or Hub name of the base; by default the one that the adapter names.
        dtype: "bf16", "fp16" or "fp32" for every floating-point tensor; by default each keeps its own.
        quantize: "nf4" (with double quantization) or "int8": what linear layers are quantized to after merging, as transformers would.
        onto: "original", or "dequantized": the base is first put through the quantization that it had in training, and the merge then is exact
            for an adapter that was trained on those weights.
        trained: with "dequantized", that quantization (None: there was none) and the dtype that the base was loaded in; by default NF4 with
            double quantization and the base's own. A base that is quantized on the disk says so itself.
        force: allow a merge in place into quantized weights.
        below: adapters that this one was trained on top of, each stacked and not merged.
        revision: of the base on the Hub; by default the one that the adapters name.

    Raises:
        UserError: anything that would leave part of an adapter unmerged, a merge in place without force, a damaged base, no room, a taken `output`.
    """
    patterns = [ADAPTER_CONFIG, lora.WEIGHTS, *shards.TOKENIZER_FILES]
    folders = [locate(name, patterns, key="below") for name in below] + [locate(adapter, patterns, key="adapter")]
    configs = [lora.read_config(folder) for folder in folders]
    source = base or configs[-1].base_model_name_or_path or ""
    if not base:
        check_base(source, adapter)
    revision = _revision(source, revision, dict(zip((*below, adapter), configs, strict=True)))
    with _folder(source, output, revision) as folder:
        opened = open_base(folder, lora.entries(folders, skeleton(folder)))
        check_tokenizers(opened, folders)
        precision = decide(opened, dtype=dtype, quantize=quantize, onto=onto, trained=trained, force=force)
        updates = [part_by_part(opened, lora.collect(one, opened.skeleton())) for one in folders]
        writes, untied = plan(opened.skeleton(), opened, {name for update in updates for name in update.names})

        size = sum(precision.held.size(w.parameter, opened.shape(w.source, w.parameter), opened.tensors[w.source].itemsize) for w in writes)
        with shards.written_whole(Path(output), size) as partial:
            survival = write_shards(partial, Merger(opened, updates, precision), writes)
            shards.copy_files(opened.folder, partial, [*shards.MODEL_FILES, *shards.LICENSE_FILES])
            for one in folders:
                shards.copy_files(one, partial, shards.TOKENIZER_FILES)
            write_config(partial / "config.json", precision.held, untied, opened.entries)
            names = {"adapter": public_name(str(adapter)), "base": public_name(str(source)), "below": [public_name(str(b)) for b in below]}
            facts = {**names, "onto": precision.onto, "written": precision.written, **as_json(survival)}
            (partial / REPORT).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return MergeResult(Path(output), survival, str(source), precision.written)


@contextlib.contextmanager
def _folder(source: str | Path, output: str | Path, revision: str | None) -> Iterator[Path]:
    """The folder of a base; of a GGUF file one in 32 bits that is made beside the `output`, and gone afterwards.

    Raises:
        UserError: what `loading` refuses, or too little room on the disk.
    """
    found = locate(source, BASE_FILES, key="base", revision=revision)
    if found.is_dir():
        yield found
        return
    beside = Path(output).absolute().parent
    beside.mkdir(parents=True, exist_ok=True)
    numbers = loading.checked(loading.config(found, key="base"), found, key="base").num_parameters()
    check_room(beside, torch.float32.itemsize * numbers, key="output")
    with tempfile.TemporaryDirectory(dir=beside, prefix=f".{Path(output).name}.base-") as folder:
        loading.base(found, key="base", dtype=torch.float32).save_pretrained(folder)
        loading.tokenizer(found, key="base").save_pretrained(folder)
        yield Path(folder)


def check_tokenizers(base: Base, adapters: Sequence[Path]) -> None:
    """See that the tokenizers that are copied load, and that the merged model has an entry for each token.

    Raises:
        UserError: one does not, or it has not.
    """
    folders = {base.folder: "base", **dict.fromkeys(adapters, "adapter")}
    brought = {folder: key for folder, key in folders.items() if any(os.path.lexists(folder / name) for name in TOKENIZER)}
    for folder, key in brought.items():
        tokenizer = loading.tokenizer(folder, key=key)
        if folder == list(brought)[-1]:  # which the merged model has
            loading.check_tokens(base.skeleton(), tokenizer, folder, key=key)


def _revision(source: str | Path, asked: str | None, configs: dict[str | Path, LoraConfig]) -> str | None:
    """The revision of the base that its adapters belong to; a base of another name is warned of.

    Raises:
        UserError: several revisions.
    """
    found = set() if asked in (None, "main") else {asked}
    for name, config in configs.items():
        named = config.base_model_name_or_path or source
        if not same_model(named, source):
            logger.warning("Warning: %s says that its base is %s, and is merged into %s.", name, named, source)
        elif config.revision:
            found.add(config.revision)
    if len(found) > 1 and not Path(source).is_dir():
        raise UserError(
            f"base: the adapters belong to revisions {', '.join(sorted(filter(None, found)))} of {source}; give its folder as --base."
        )
    return next(iter(found), None)


def plan(model: PreTrainedModel, base: Base, changed: set[str]) -> tuple[list[Write], bool]:
    """Which weights to write, and whether tied ones were untied.

    Where an adapter changes one of two tied weights (head and embedding), or both differently, the merged model needs both.

    Raises:
        UserError: a weight of an adapter that is no tensor of the checkpoint, or one that several layers share.
    """
    check_shared(model, changed)
    parameters = {name: parameter for parameter, name in base.names.items()}
    scales = {part for parts in base.beside.values() for part in parts}
    writes = [Write(name, name, parameters.get(name)) for name in base.tensors if name not in scales]
    touched = [pair for pair in model.all_tied_weights_keys.items() if changed & set(pair)]
    for pair in touched:
        for missing, there in (pair, pair[::-1]):
            if missing not in base.names and there in base.names:
                writes.append(Write(missing, base.names[there], missing))
    sources = {write.parameter: write.source for write in writes}
    for name in sorted(changed - base.parts.keys()):
        if name not in sources:
            raise UserError(
                f"base: no tensor of the checkpoint is the weight {name} that the adapter changes (it is "
                "converted on loading, in a way that cannot be taken back); load the base with transformers and use PEFT's merge_and_unload."
            )
        if base.shape(sources[name], name) != base.shapes[name]:
            raise UserError(
                f"{base.tensors[sources[name]].shard}: tensor {sources[name]} has shape {base.shape(sources[name], name)} and config.json "
                f"says {base.shapes[name]}; fetch the base again."
            )
    return writes, bool(touched)


def check_shared(model: PreTrainedModel, changed: set[str]) -> None:
    """See that no adapter changes a weight that several layers are (Zamba's): each of them has a change of its own, and one weight has room for one.

    Raises:
        UserError: one does.
    """
    places: defaultdict[int, set[str]] = defaultdict(set)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places[id(parameter)].add(name)
    places.pop(id(model.get_input_embeddings().weight), None)  # tied to the head, it becomes two
    for names in places.values():
        if len(names) > 1 and names & changed:
            raise UserError(
                f"base: {', '.join(sorted(names)[:2])} are one weight in a {type(model).__name__} and the adapter changes each of them by itself; "
                "load adapter and base with PEFT, unmerged."
            )


def write_shards(output: Path, merger: Merger, writes: list[Write]) -> dict[str, Survival]:
    """Write the merged shards, and their index where there are several; return what survived of each changed weight."""
    base = merger.base
    survival: dict[str, Survival] = {}
    index: dict[str, str] = {}
    total = 0
    files = sorted({base.tensors[write.source].shard for write in writes})
    with tqdm(total=len(writes), desc="merging", unit="tensor") as bar:
        for file_name in files:
            merged: dict[str, torch.Tensor] = {}
            for write in (w for w in writes if base.tensors[w.source].shard == file_name):
                tensors, found = merger.merge(write)
                merged |= tensors
                if found is not None:
                    survival[(write.parameter or write.source).removesuffix(".weight")] = found
                bar.update()
            index |= dict.fromkeys(merged, file_name)
            total += sum(tensor.nbytes for tensor in merged.values())
            save_file(merged, output / file_name, metadata={"format": "pt"})
    if (base.folder / shards.INDEX).is_file() and files != [shards.SINGLE]:
        shards.write_index(output, index, total)
    return survival


def write_config(path: Path, held: Format, untied: bool, entries: int | None) -> None:
    """Set in a copied config.json what the merge changed, and leave every other line as the base has it."""
    config = read_json(path)
    text = config.get("text_config", config)
    if held.dtype is not None:
        for part in (config, text):
            part.pop("torch_dtype", None)  # the name that transformers < 5 wrote
            part["dtype"] = str(held.dtype).removeprefix("torch.")
    config.pop("quantization_config", None)
    if held.config is not None:
        config["quantization_config"] = held.config.to_dict()
    if entries is not None:
        text["vocab_size"] = entries
    if untied:
        config["tie_word_embeddings"] = text["tie_word_embeddings"] = False
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
