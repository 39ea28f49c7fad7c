"""What is done to a file of a good folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

Damage = Callable[[Path], None]
LATIN = b"\xff\xfe\x00caf\xe9"


def written(name: str, content: bytes | str) -> Damage:
    """The file `name` holds `content` alone."""

    def damage(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def without(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def with_values(name: str, values: dict[Any, Any]) -> Damage:
    """The JSON or YAML file `name` says these values as well."""
    read, write = (yaml.safe_load, yaml.safe_dump) if name.endswith(".yaml") else (json.loads, json.dumps)

    def damage(folder: Path) -> None:
        path = folder / name
        found = read(path.read_text()) if path.exists() else {}
        path.write_text(write(found | values))

    return damage


def both(*damages: Damage) -> Damage:
    """One after the other."""

    def damage(folder: Path) -> None:
        for one in damages:
            one(folder)

    return damage


def flipped(name: str) -> Damage:
    """One byte in the middle of a file is another."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 0xFF
        (folder / name).write_bytes(content)

    return damage


def cut(name: str, share: float = 0.5) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return damage


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    """The safetensors file `name` holds what `change` makes of its tensors."""
    return lambda folder: save_file(change(load_file(folder / name)), folder / name, metadata={"format": "pt"})


def filled(value: float) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """The first tensor has one such number."""

    def change(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = min(found)
        tensor = found[name].clone()
        tensor.view(-1)[0] = value
        return found | {name: tensor}

    return change


def lacking(part: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """The tensors without the first whose name has `part`."""
    return lambda found: {name: tensor for name, tensor in found.items() if name != next(n for n in sorted(found) if part in n)}


def directory(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return damage


def looped(name: str) -> Damage:
    """A link that leads to itself."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.symlink(name, folder / name)

    return damage


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploded",)


def pickled(old: str, new: str) -> Damage:
    """In place of safetensors a pickle that would run a program."""

    def damage(folder: Path) -> None:
        (folder / old).unlink()
        torch.save({"weight": Bomb()}, folder / new)

    return damage


def every_json(prefix: str, name: str) -> dict[str, Damage]:
    """What no JSON object of a folder may be."""
    return {
        f"{prefix}-missing": without(name),
        f"{prefix}-empty": written(name, ""),
        f"{prefix}-garbage": written(name, "{not json"),
        f"{prefix}-null": written(name, "null"),
        f"{prefix}-list": written(name, "[]"),
        f"{prefix}-string": written(name, '"x"'),
        f"{prefix}-number": written(name, "5"),
        f"{prefix}-empty-object": written(name, "{}"),
        f"{prefix}-binary": written(name, LATIN),
        f"{prefix}-deep": written(name, "[" * 100_000),
        f"{prefix}-directory": directory(name),
        f"{prefix}-symlink-loop": looped(name),
    }
