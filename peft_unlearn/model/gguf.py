"""A base out of a GGUF file: config and tokenizer as transformers reads them, and the weights as what their numbers are worth.

transformers keeps weights packed for a few architectures, where a kernel for the device can be had, and says of these that they cannot be trained
through; so all are dequantized.
"""

import contextlib
import copy
import math
import os
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from peft_unlearn.util import gguf
from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError

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
    """What `AutoModelForCausalLM.from_pretrained` gives for a GGUF file and these arguments, each weight what its numbers are worth."""
    how = {**kwargs, "config": config, "gguf_file": path.name, "quantization_config": GgufConfig(dequantize=True)}
    with _alone(path) as folder:
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
def _alone(path: Path) -> Iterator[str]:
    """A folder with nothing but a link to the file: of a tokenizer.json beside it transformers would take that and leave out special tokens."""
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(path.resolve(), Path(folder, path.name))
        yield folder
