"""GGUF files, in which llama.cpp holds models: where one lies, and whether a whole language model is in it. Without torch.

A GGUF file is named as a model: by its path, or on the Hub by the repository and the file in it, such as me/my-model-GGUF/my-model-q8_0.gguf.
"""

import importlib.util
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError

SUFFIX = ".gguf"
INSTALL = "gguf is not installed, without which no GGUF file is read; run pip install 'peft-unlearn[gguf]'"
UNPACKED = "a GGUF file, such as {!r}, is held as what its numbers are worth; leave the key out"
PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
# What other files of the format hold, by the type or the architecture that they name.
OTHERS = {
    "adapter": "a LoRA adapter",
    "imatrix": "an importance matrix, which llama.cpp quantizes by",
    "mmproj": "the part of a model that sees or hears",
    "clip": "the part of a model that sees or hears",
    "controlvector": "a control vector, which steers a model",
}
ROPE_FACTORS = "rope_freqs.weight"


def is_gguf(name: str | Path) -> bool:
    """Whether a model is named as a GGUF file, here or on the Hub."""
    return str(name).casefold().endswith(SUFFIX) and not Path(name).is_dir()


def is_hub_name(name: str | Path) -> bool:
    """Whether the name of a GGUF file can be one on the Hub: a repository, which has an owner, and the file in it."""
    return is_gguf(name) and not Path(name).is_file() and len(str(name).split("/")) > 2 and str(name)[0] not in "/.~"


def on_hub(name: str) -> tuple[str, str]:
    """The repository of a GGUF file on the Hub, and the file's name in it."""
    owner, repo, file = name.split("/", 2)
    return f"{owner}/{repo}", file


def located(name: str | Path, *, key: str, revision: str | None = None) -> Path:
    """The GGUF file of that name, fetched from the Hub where it is not here, and seen to hold a language model.

    Raises:
        UserError: there is none, or what `check` refuses.
    """
    path = Path(name)
    if is_hub_name(name):
        from huggingface_hub import hf_hub_download

        with boundary(f"{key}: {str(name)!r} is no file here and did not come from the Hub", "write the path of a GGUF file"):
            repo, file = on_hub(str(name))
            path = Path(hf_hub_download(repo, file, revision=revision))
    if not path.is_file():
        raise UserError(
            f"{key}: there is no file {str(name)!r}; write the path of a GGUF file, or OWNER/REPOSITORY/FILE of one on the Hub."
        )
    check(path, key=key)
    return path


def check(path: Path, *, key: str) -> None:
    """See that a GGUF file is whole and holds a language model, by what stands before its weights.

    Raises:
        UserError: no `gguf` package, a file that is empty or cut, one of several parts, or one that holds something else.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{key}: {INSTALL}.")
    if not path.stat().st_size:
        raise UserError(f"{key}: {str(path)!r} is empty; fetch it again.")
    facts = _facts(path, path.stat().st_size, path.stat().st_mtime_ns, key)
    if facts["parts"] > 1:
        raise UserError(f"{key}: {_of_parts(path, facts['parts'])}.")
    what = OTHERS.get(facts["type"]) or OTHERS.get(facts["architecture"])
    if facts["type"] == "model" and not facts["tensors"]:
        what = "a vocabulary"
    if what or facts["type"] != "model":
        raise UserError(f"{key}: {str(path)!r} holds {what or facts['type']}, and no language model; write the file of the model itself.")


def rope_factors(path: Path) -> list[float]:
    """By what llama.cpp divides each rotary frequency of a model of which the file says so (Llama 3.1 and later); else none."""
    factors: list[float] = _facts(path, path.stat().st_size, path.stat().st_mtime_ns, "")["rope_factors"]
    return factors


@lru_cache(maxsize=8)
def _facts(path: Path, size: int, changed: int, key: str) -> dict[str, Any]:
    """What a file says of itself. To read its vocabulary takes seconds, so that it is kept as long as `size` and `changed` stay."""
    from gguf import GGUFReader

    with boundary(f"{key}: {str(path)!r} is no GGUF file, or one that is cut or damaged", "fetch it again"):
        reader = GGUFReader(path)
        said = {name: reader.get_field(name) for name in ("general.architecture", "general.type", "split.count")}
        found = {name: field.contents() for name, field in said.items() if field is not None}
        kind, parts = str(found.get("general.type", "model")), int(found.get("split.count", 1))
        # An importance matrix names none, nor does a part after the first.
        if kind == "model" and parts == 1 and "general.architecture" not in found:
            raise ValueError("it names no architecture")
    factors = [tensor.data.tolist() for tensor in reader.tensors if tensor.name == ROPE_FACTORS]
    return {
        "architecture": str(found.get("general.architecture")),
        "type": kind,
        "parts": parts,
        "tensors": len(reader.tensors),
        "rope_factors": factors[0] if factors else [],
    }


def _of_parts(path: Path, count: int) -> str:
    """What to do with one part of several."""
    named = PART.fullmatch(path.name)
    parts = [path.with_name(f"{named[1]}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)] if named else []
    if gone := [part.name for part in parts if not part.is_file()]:
        return (
            f"{str(path)!r} is one of {count} parts, of which {gone[0]} is not there; fetch it, and join them by llama-gguf-split --merge"
        )
    return f"{str(path)!r} is one of {count} parts; join them by llama-gguf-split --merge, and write the file that it makes"
