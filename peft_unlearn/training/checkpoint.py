"""A run's checkpoints: written beside their place and renamed, recognized by a manifest, and taken up by the run that wrote them alone.

Beside adapter, optimizer and schedule, which transformers writes, one has the states of the run's own components in one safetensors file. Nothing
in it is unpickled: files of torch are read with `torch.load(weights_only=True)`.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from datasets import Dataset
from peft import PeftConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from peft_unlearn.config import recipe
from peft_unlearn.config.settings import TrainingSettings
from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.util import disk, manifest
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import ADAPTER_CONFIG

logger = logging.getLogger(__name__)

FILE = "unlearning_state.safetensors"
FORMAT = 7  # of the components' states; a checkpoint of another is refused
GOOD = "good_state.pt"  # the last good state of the run, with an optimizer's, which is more than tensors
NAME = re.compile(r"checkpoint-(\d+)")
BESIDE = ".checkpoint.partial"  # in an output folder: what is being written, or being removed

# What may differ in a run that goes on: how long it is, and what it writes.
FREE = {
    "max_steps",
    "max_minutes",
    "num_train_epochs",
    "logging_steps",
    "save_strategy",
    "save_minutes",
    "save_total_limit",
    "resume_from_checkpoint",
    "report_to",
    "per_device_eval_batch_size",
    "hub_strategy",
    "hub_private_repo",
}
ALSO = ("seed", "data_seed", "bf16", "fp16", "adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs")  # of TrainingArguments
# Settings that must be the same, first those that decide others.
BINDING = list(dict.fromkeys(["method", "stop_at", *(f.name for f in dataclasses.fields(TrainingSettings) if f.name not in FREE), *ALSO]))
SHAPE = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_target_modules": "target_modules",
    "lora_dropout": "lora_dropout",
}  # recipe keys: PEFT's


class Component(Protocol):
    """A part of a run that remembers something from one step to the next."""

    def state_dict(self) -> dict[str, Tensor]:
        """All that it remembers, by name."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Remember what a `state_dict` holds."""


def write(components: Mapping[str, Component], good: dict[str, Any] | None, folder: Path) -> None:
    """Write the components' states into a checkpoint, each under the recipe key that its run has it by, and the last good state of the run."""
    save_file({f"{key}.{name}": value for key, part in components.items() for name, value in part.state_dict().items()}, folder / FILE)
    torch.save(good, folder / GOOD)


def restore(components: Mapping[str, Component], folder: Path) -> dict[str, Any] | None:
    """Bring the components' states of a checkpoint back, and give the good one; `check` has seen to it that its run has the same ones."""
    saved = load_file(folder / FILE)
    for key, part in components.items():
        part.load_state_dict({name: saved[f"{key}.{name}"] for name in part.state_dict()})
    good: dict[str, Any] | None = torch.load(folder / GOOD, map_location="cpu", weights_only=True)
    return good


# ------------------------------------------------------------------------------------------------------------------- whole or not there


@contextlib.contextmanager
def beside(output: Path) -> Iterator[Path]:
    """A folder in `output` to write a checkpoint into; gone at the end, and what a killed run left of one before.

    Raises:
        OSError: the disk is full.
    """
    partial = output / BESIDE
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with disk.written(output):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A folder to write files into, which take their places in `output` when all are written; the one that makes an adapter of it comes last."""
    with beside(output) as partial:
        yield partial
        for path in sorted(partial.iterdir(), key=lambda path: path.name == ADAPTER_CONFIG):
            path.replace(output / path.name)


def finish(written: Path, output: Path, facts: dict[str, Any]) -> Path:
    """Give what was `written` in `beside(output)` its manifest and its place; another one of its name, damaged or not, makes room."""
    manifest.write(written, facts)
    place = output / written.name
    if place.exists():
        place.rename(written.parent / "replaced")
    written.rename(place)
    return place


def rotate(output: Path, limit: int | None, last: Path, best: str | None) -> None:
    """Remove the oldest checkpoints until `limit` are left, and never the `last` one or the `best`; 0 or None keeps all.

    Those of later steps are another turn's, and are replaced when the run comes there.
    """
    found = [folder for folder in reversed(numbered(output)) if _step(folder) <= _step(last)]
    for folder in found[: -limit or None] if limit and limit > 0 else []:
        if best is None or folder != Path(best):
            away = output / BESIDE
            shutil.rmtree(away, ignore_errors=True)
            folder.rename(away)  # a run that is killed meanwhile leaves none that is half there
            shutil.rmtree(away, ignore_errors=True)


def numbered(output: Path) -> list[Path]:
    """The checkpoints of an output folder, whole or not, the last one first."""
    found = [path for path in output.iterdir() if NAME.fullmatch(path.name) and path.is_dir()] if output.is_dir() else []
    return sorted(found, key=_step, reverse=True)


def _step(folder: Path) -> int:
    return int(folder.name.partition("-")[2])


# --------------------------------------------------------------------------------------------------------------------- going on with one


def chosen(resume: bool | str | None, output: Path) -> Path | None:
    """The checkpoint to go on from: the one that is named, or with True the last whole one in `output`.

    Each one that is damaged is named and passed over. A run that was cut before it had a whole one begins anew (None).

    Raises:
        UserError: no run was cut there, or the one that is named is none, or is damaged.
    """
    if resume is None or resume is False:
        return None
    if isinstance(resume, str):
        if not resume.strip() or not Path(resume).is_dir():
            raise UserError(f"resume_from_checkpoint: {resume!r} is no folder, write a checkpoint's folder, or true for the last one.")
        _read(Path(resume))
        return Path(resume)
    found = numbered(output)
    for folder in found:
        try:
            if _facts(folder)["step"] == _step(folder):
                return folder
            raise manifest.Damaged("its number is not that of its step")
        except manifest.Damaged as error:
            logger.warning("resume_from_checkpoint: %s is passed over, for %s.", folder, error)
    if (output / ADAPTER_CONFIG).is_file() or not (found or (output / recipe.FILE).is_file()):
        raise UserError(f"resume_from_checkpoint: {output} holds no checkpoint that is whole, leave the key out.")
    logger.warning("resume_from_checkpoint: %s holds no checkpoint that is whole, so the run begins anew.", output)
    return None


def _facts(folder: Path) -> dict[str, Any]:
    """The facts of a whole checkpoint.

    Raises:
        manifest.Damaged: it is not whole, or nothing to go on from.
    """
    facts = manifest.read(folder)
    if not facts.get("resumable"):
        raise manifest.Damaged("it holds an adapter only (save_only_model)")
    return facts


def _read(folder: Path) -> dict[str, Any]:
    """The same of one that the user has named.

    Raises:
        UserError: it is not whole, or nothing to go on from.
    """
    try:
        return _facts(folder)
    except manifest.Damaged as error:
        raise UserError(
            f"resume_from_checkpoint: {folder} is not whole, for {error}; write another one, or true for the last whole one."
        ) from error


def facts(args: UnlearnConfig, adapter: PeftConfig, rows: Mapping[str, Dataset]) -> dict[str, Any]:
    """What a run must have in common with the one whose checkpoint it takes up.

    Args:
        adapter: of the student.
        rows: the sets that were given, tokenized, by their recipe keys.
    """
    settings, shape = args.to_dict(), adapter.to_dict()
    targets = shape.get("target_modules")
    shape["target_modules"] = sorted(targets) if isinstance(targets, set | list) else targets
    return {
        "format": FORMAT,
        "processes": args.world_size,
        "settings": {key: settings[key] for key in BINDING} | {key: shape[name] for key, name in SHAPE.items() if name in shape},
        "rows": {key: digest(found) for key, found in rows.items()},
    }


def digest(rows: Dataset) -> str:
    """A checksum of tokenized rows: their tokens and labels, in their order."""
    found = hashlib.sha256()
    for batch in rows.select_columns(["input_ids", "labels"]).with_format("arrow").iter(1000):
        found.update(json.dumps(batch.to_pydict()).encode())
    return found.hexdigest()


def check(folder: Path, now: Mapping[str, Any]) -> None:
    """See that a checkpoint is whole, and of a run like this one: what both sides' `facts` tell is the same.

    Args:
        now: `facts`, or some of them.

    Raises:
        UserError: it is not; the message names the key.
    """
    then = _read(folder)
    if then.get("format") != FORMAT:
        raise UserError(
            f"resume_from_checkpoint: {folder} was written by another version of peft-unlearn; go on with that one, or start a new run."
        )
    if (wrote := then["processes"]) != (goes_on := now["processes"]):
        raise UserError(
            f"resume_from_checkpoint: {folder} is of a run on {wrote} process(es) and this one has {goes_on}; launch {wrote}, or start a new run."
        )
    for key, value in json.loads(json.dumps(now.get("settings", {}), default=str)).items():
        if value != (before := then["settings"].get(key, value)):
            raise UserError(f"{key}: the run that wrote {folder} had {before!r} and not {value!r}; write that, or start a new run.")
    for key, value in now.get("rows", {}).items():
        if value != then["rows"].get(key, value):
            raise UserError(f"{key}: the run that wrote {folder} had other rows; give those, or start a new run.")
