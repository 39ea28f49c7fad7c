"""GGUF files, in which llama.cpp holds models: where one lies, and whether a whole language model is in it. Without torch.

A GGUF file is named as a model: by its path, or on the Hub by the repository and the file in it, such as me/my-model-GGUF/my-model-q8_0.gguf.
A model in several parts is named by the first, as in llama.cpp.
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
PART = re.compile(r"(?P<model>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
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
    """The GGUF file of that name, fetched from the Hub where it is not here, with its other parts, and seen to hold a language model.

    Raises:
        UserError: there is none, or what `check` refuses.
    """
    path = _fetched(str(name), key, revision) if is_hub_name(name) else Path(name)
    if not path.is_file():
        raise UserError(
            f"{key}: there is no file {str(name)!r}; write the path of a GGUF file, or OWNER/REPOSITORY/FILE of one on the Hub."
        )
    check(path, key=key)
    return path


def check(path: Path, *, key: str) -> None:
    """See that a GGUF file, with its other parts if it is the first of several, is whole and holds a language model, by what stands before weights.

    Raises:
        UserError: no `gguf` package, a file that is empty or cut, parts that are missing or of several models, or a file that holds something else.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{key}: {INSTALL}.")
    facts = _read(path, key)
    what = OTHERS.get(facts["type"]) or OTHERS.get(facts["architecture"])
    tensors = facts["tensors"]
    if facts["parts"] > 1 and not what:
        tensors = _tensors_of_parts(path, key)
    if facts["type"] == "model" and not tensors:
        what = "a vocabulary"
    if what or facts["type"] != "model":
        raise UserError(f"{key}: {str(path)!r} holds {what or facts['type']}, and no language model; write the file of the model itself.")


def parts(path: Path) -> list[Path]:
    """The files of a model, of which `check` has seen the first: that one, and the other parts where there are any."""
    return [path.with_name(name) for name in part_names(path.name)] if _read(path)["parts"] > 1 else [path]


def part_names(first: str) -> list[str]:
    """As llama.cpp names the parts of a model the first of which is named so; of another name that name alone."""
    named = PART.fullmatch(first)
    if named is None or int(named["number"]) != 1:
        return [first]
    return [f"{named['model']}-{number:05d}-of-{named['count']}{SUFFIX}" for number in range(1, int(named["count"]) + 1)]


def joined_name(name: str) -> str:
    """The name of the one file that a model's parts make, by that of the first; of another file its own."""
    named = PART.fullmatch(name)
    return f"{named['model']}{SUFFIX}" if named else name


def rope_factors(path: Path) -> list[float]:
    """By what llama.cpp divides each rotary frequency of a model of which the file says so (Llama 3.1 and later); else none."""
    return next((factors for part in parts(path) if (factors := _read(part)["rope_factors"])), [])


def _fetched(name: str, key: str, revision: str | None) -> Path:
    """The file of that name on the Hub, with its other parts beside it."""
    from huggingface_hub import hf_hub_download

    repo, file = on_hub(name)
    paths = []
    for part in part_names(file):
        with boundary(f"{key}: {f'{repo}/{part}'!r} is no file here and did not come from the Hub", "write the path of a GGUF file"):
            paths.append(Path(hf_hub_download(repo, part, revision=revision)))
    return paths[0]


def _tensors_of_parts(path: Path, key: str) -> set[str]:
    """The tensors in all parts of a model.

    Raises:
        UserError: it is not the first part that is given, as llama.cpp wants it; one is missing or of another model; or tensors are too few or twice.
    """
    first, named = _read(path, key), PART.fullmatch(path.name)
    count, number = first["parts"], first["part"]
    if named is None or (int(named["number"]), int(named["count"])) != (number + 1, count):
        raise UserError(
            f"{key}: {str(path)!r} is part {number + 1} of {count} by what stands in it and is not named so; "
            f"name the parts as llama.cpp does, the first of them NAME-00001-of-{count:05d}.gguf."
        )
    if number:
        begin = path.with_name(f"{named['model']}-00001-of-{named['count']}.gguf")
        raise UserError(
            f"{key}: {str(path)!r} is part {number + 1} of {count}; {'write' if begin.is_file() else 'fetch'} the first, {begin.name}."
        )
    held: dict[str, Path] = {}
    for position, part in enumerate(parts(path)):
        if not part.is_file():
            raise UserError(f"{key}: {str(path)!r} is one of {count} parts, of which {part.name} is not there; fetch it.")
        facts = _read(part, key)
        if (facts["parts"], facts["part"]) != (count, position) or facts["architecture"] not in (None, first["architecture"]):
            raise UserError(f"{key}: {str(part)!r} is not part {position + 1} of the model in {path.name}; fetch all parts of one model.")
        if twice := sorted(held.keys() & facts["tensors"]):
            raise UserError(f"{key}: {str(part)!r} holds {twice[0]}, as {held[twice[0]].name} does; fetch all parts of one model.")
        held |= dict.fromkeys(facts["tensors"], part)
    if first["of_all"] not in (None, len(held)):
        raise UserError(
            f"{key}: the {count} parts of {str(path)!r} hold {len(held)} tensors for {first['of_all']}; fetch all parts of one model."
        )
    return set(held)


def _read(path: Path, key: str = "gguf") -> dict[str, Any]:
    """What a file says of itself.

    Raises:
        UserError: it is empty, or cannot be read.
    """
    if not path.stat().st_size:
        raise UserError(f"{key}: {str(path)!r} is empty; fetch it again.")
    with boundary(f"{key}: {str(path)!r} is no GGUF file, or one that is cut or damaged", "fetch it again"):
        return _facts(path, path.stat().st_size, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _facts(path: Path, size: int, changed: int) -> dict[str, Any]:
    """To read a vocabulary takes seconds, so that what is found is kept as long as `size` and `changed` stay."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    names = ("general.architecture", "general.type", "split.count", "split.no", "split.tensors.count")
    found = {name: field.contents() for name in names if (field := reader.get_field(name)) is not None}
    kind, number = str(found.get("general.type", "model")), int(found.get("split.no", 0))
    # An importance matrix names none, nor does a part after the first.
    if kind == "model" and not number and "general.architecture" not in found:
        raise ValueError("it names no architecture")
    factors = [tensor.data.tolist() for tensor in reader.tensors if tensor.name == ROPE_FACTORS]
    return {
        "architecture": str(found["general.architecture"]) if "general.architecture" in found else None,
        "type": kind,
        "parts": int(found.get("split.count", 1)),
        "part": number,
        "of_all": found.get("split.tensors.count"),
        "tensors": {tensor.name for tensor in reader.tensors},
        "rope_factors": factors[0] if factors else [],
    }
