"""A model folder as files: what its safetensors shards hold, and writing another one shard by shard."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from safetensors import safe_open

from peft_unlearn.util import disk
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import check_room, claimed, read_json, undamaged

SINGLE, INDEX = constants.SAFETENSORS_SINGLE_FILE, constants.SAFETENSORS_INDEX_FILE
ITEMSIZE = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}  # bytes; the rest take 1

# By name and not *.json: a user's own folder may hold the forget set.
TOKENIZER_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "*.tiktoken",
    "chat_template.jinja",
    "chat_template.json",
]
MODEL_FILES = ["config.json", "generation_config.json", *TOKENIZER_FILES, "preprocessor_config.json", "processor_config.json"]
LICENSE_FILES = ["LICENSE*", "NOTICE*", "USE_POLICY*"]


@dataclass(frozen=True)
class Tensor:
    """A checkpoint tensor: its shard's file name, its shape, and the bytes of an entry."""

    shard: str
    shape: tuple[int, ...]
    itemsize: int


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, open on the CPU; tensors are read one by one by `get_tensor`.

    Raises:
        UserError: the file is truncated or damaged.
    """
    with undamaged(f"{path}: the file"), safe_open(path, framework="pt") as file:
        yield file


def checkpoint(folder: Path) -> dict[str, Tensor]:
    """The tensors of a transformers folder, by their names in the checkpoint.

    Every shard is opened, so that what is missing or cut is found before anything is written.

    Raises:
        UserError: no safetensors weights, a shard that the index lists and the folder lacks, or a tensor that its shard lacks.
    """
    if (folder / SINGLE).is_file():
        listed: dict[str, str] = {}
        names = [SINGLE]
    elif (folder / INDEX).is_file():
        listed = read_json(folder / INDEX)["weight_map"]
        names = sorted(set(listed.values()))
    else:
        raise UserError(f"{folder}: no {SINGLE} and no {INDEX} there; save the base with save_pretrained, which writes safetensors.")
    tensors: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: {INDEX} lists this shard, but it is not there; fetch the base again.")
        with opened(folder / name) as file:
            for key in file.keys():  # noqa: SIM118
                header = file.get_slice(key)
                tensors[key] = Tensor(name, tuple(header.get_shape()), ITEMSIZE.get(header.get_dtype(), 1))
    for key, name in listed.items():
        if key not in tensors or tensors[key].shard != name:
            raise UserError(f"{folder / name}: {INDEX} says that tensor {key} is in this shard, but it is not; fetch the base again.")
    return tensors


def read(folder: Path, tensor: Tensor, name: str) -> Any:
    """The tensor of that name. It is mapped, and leaves memory when it is dropped: the shard is opened for it alone.

    Raises:
        UserError: the shard is truncated or damaged.
    """
    with opened(folder / tensor.shard) as file:
        return file.get_tensor(name)


def write_index(folder: Path, tensors: dict[str, str], total_size: int) -> None:
    """Write the index of a sharded folder: `tensors` maps tensor names to shard file names, `total_size` is in bytes."""
    index = {"metadata": {"total_size": total_size}, "weight_map": tensors}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def copy_files(source: Path, target: Path, patterns: list[str]) -> None:
    """Copy the files at the root of `source` that match `patterns`, over those that `target` has.

    Raises:
        UserError: a folder, or a link that leads nowhere, under such a name.
    """
    for pattern in patterns:
        for path in source.glob(pattern):
            if not path.is_file():
                raise UserError(f"{path}: this is no file; fetch the model again.")
            shutil.copyfile(path, target / path.name)


@contextlib.contextmanager
def written_whole(output: Path, size: int) -> Iterator[Path]:
    """A folder to write into, which gets the name `output` only when all is written. It lies in a hidden one beside, claimed by this process.

    Args:
        size: bytes that will be written, checked against the free disk space.

    Raises:
        UserError: `output` holds something, now or when all is written; another merge writes it; or the disk has too little room.
    """
    output = output.resolve()
    claim = output.with_name(f".{output.name}.partial")
    partial = claim / output.name
    try:
        with claimed(claim, key="output"):
            shutil.rmtree(partial, ignore_errors=True)  # left by a merge that was killed
            if output.exists() and (not output.is_dir() or any(output.iterdir())):
                raise UserError(f"output: {output} is there already and is not an empty folder; give another name.")
            check_room(output.parent, size, key="output")
            partial.mkdir()
            try:
                with disk.written(output):
                    yield partial
                _rename(partial, output)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    finally:
        with contextlib.suppress(OSError):  # a claim that a killed merge left stays when it is given up
            claim.rmdir()


def _rename(partial: Path, output: Path) -> None:
    try:
        if output.exists():
            output.rmdir()
        partial.rename(output)
    except OSError as error:
        raise UserError(f"output: {output} was free and is not any more ({error.strerror}), merge again under another name.") from error
