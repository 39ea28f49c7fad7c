"""A base out of a GGUF file: config and tokenizer as transformers reads them, and the weights as what their numbers are worth.

transformers keeps weights packed for a few architectures, where a kernel for the device can be had, and says of these that they cannot be trained
through; so all are dequantized. It reads one file, so that the parts of a model are made one file for as long as it reads.
"""

import contextlib
import copy
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from peft_unlearn.util import gguf
from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import check_room
from peft_unlearn.util.scratch import scratch

# Llama 3.1's way of reading far positions; its one number that differs between models is the largest of the factors.
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def config(path: Path, *, key: str) -> PreTrainedConfig:
    """The config that a GGUF file's metadata make.

    Raises:
        UserError: transformers does not read the architecture, or the file scales its positions in a way that transformers does not read out of it.
    """
    return copy.deepcopy(_config(path, path.stat().st_mtime_ns, key))


def tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a GGUF file, with its chat template."""
    return copy.deepcopy(_tokenizer(path, path.stat().st_mtime_ns))


def weights(path: Path, config: PreTrainedConfig, **kwargs: Any) -> Any:
    """What `AutoModelForCausalLM.from_pretrained` gives for a GGUF file and these arguments, each weight what its numbers are worth.

    Raises:
        UserError: no room on the disk to join parts.
    """
    how = {**kwargs, "config": config, "gguf_file": path.name, "quantization_config": GgufConfig(dequantize=True)}
    with _alone(path, weights=True) as folder:
        return AutoModelForCausalLM.from_pretrained(folder, **how)


@lru_cache(maxsize=2)  # to read a vocabulary takes seconds
def _config(path: Path, changed: int, key: str) -> PreTrainedConfig:
    unread = f"{key}: transformers does not read the model in {str(path)!r}"
    with _alone(path) as folder, boundary(unread, "give the base's own folder or Hub name, and export GGUF files of what it becomes"):
        found = AutoConfig.from_pretrained(folder, gguf_file=path.name)
    factors = gguf.rope_factors(path)
    if factors:
        found.rope_parameters = {**found.rope_parameters, **LLAMA3, "factor": max(factors)}
        if not _scales(found, factors):
            raise UserError(
                f"{key}: {str(path)!r} scales its positions in a way that transformers does not read out of a GGUF file; "
                "give the base's own folder or Hub name."
            )
    return found


def _scales(config: PreTrainedConfig, factors: list[float]) -> bool:
    """Whether the rotary frequencies of a config are those of its base divided by these factors."""
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    dim = 2 * len(factors)
    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    wanted = plain / torch.tensor(factors, dtype=torch.float64)
    return len(scaled) == len(factors) and all(
        math.isclose(one, other, rel_tol=1e-3) for one, other in zip(scaled.tolist(), wanted.tolist(), strict=True)
    )


@lru_cache(maxsize=2)
def _tokenizer(path: Path, changed: int) -> PreTrainedTokenizerBase:
    with _alone(path) as folder:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
    return found


@contextlib.contextmanager
def _alone(path: Path, *, weights: bool = False) -> Iterator[str]:
    """A folder with nothing but the file: of a tokenizer.json beside it transformers would take that and leave out special tokens.

    Of parts it holds the one file that they make, with their `weights` where these are asked for.
    """
    parts = gguf.parts(path)
    with scratch() as folder:
        if len(parts) == 1:
            os.symlink(path.resolve(), Path(folder, path.name))
        else:
            if weights:
                check_room(Path(tempfile.gettempdir()), sum(part.stat().st_size for part in parts), key="TMPDIR")
            _join(parts, Path(folder, path.name), weights=weights)
        yield folder


def _join(parts: Sequence[Path], file: Path, *, weights: bool) -> None:
    """Write the file that the parts of a model make: the metadata of the first, and the tensors of all.

    Without `weights` their place is a hole, which takes no room on the disk.
    """
    from gguf import GGUFReader

    readers = [GGUFReader(part, "c") for part in parts]  # copies on write, so that numbers of the header can be set
    first, tensors = readers[0], [tensor for reader in readers for tensor in reader.tensors]
    last = next(reversed(first.fields.values()))
    metadata = first.data[: last.offset + sum(part.nbytes for part in last.parts)]
    size = 0
    for tensor in tensors:
        tensor.field.parts[-1][0] = size
        size += _aligned(tensor.n_bytes, int(first.alignment))
    first.fields["GGUF.tensor_count"].parts[0][0] = len(tensors)
    first.fields["split.count"].parts[-1][0] = 0  # as llama.cpp's own tool says that it is whole
    with file.open("wb") as out, tqdm(total=size, desc="joining parts", unit="B", unit_scale=True, delay=2, leave=False) as bar:
        metadata.tofile(out)
        for tensor in tensors:
            for part in tensor.field.parts:
                part.tofile(out)
        start = _aligned(out.tell(), int(first.alignment))
        for tensor in tensors if weights else ():
            out.seek(start + int(tensor.field.parts[-1][0]))
            tensor.data.tofile(out)
            bar.update(tensor.n_bytes)
        out.truncate(start + size)


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
