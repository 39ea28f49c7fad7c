"""What a run may do with an output folder that is not empty, and the checkpoint that it goes on from."""

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState

from peft_unlearn.config import recipe
from peft_unlearn.config.unlearn_config import ModelArguments, UnlearnConfig
from peft_unlearn.data.variants import Probe
from peft_unlearn.training import checkpoint, datasets
from peft_unlearn.util.errors import UserError

logger = logging.getLogger(__name__)


def check_output(settings: Mapping[str, Any], output: Path) -> None:
    """See that nothing of another run would be overwritten. One that goes on may be longer, and write other things.

    Raises:
        UserError: the folder holds another run.
    """
    resume = settings["resume_from_checkpoint"]
    if not output.is_dir():
        return
    free = checkpoint.FREE if resume else {"resume_from_checkpoint"}
    finished = (output / "adapter_config.json").exists() or checkpoint.numbered(output)
    if differing := _differing(settings, output, [key for key in settings if key not in free]):
        raise UserError(f"output_dir: {output} holds another run ({differing[0]} differs), write another folder or remove that one.")
    if finished and not resume:
        raise UserError(
            f"output_dir: {output} holds a run already, write another folder, or resume_from_checkpoint: true to go on with it."
        )


def chosen(args: UnlearnConfig, settings: Mapping[str, Any], output: Path) -> Path | None:
    """The checkpoint that a run goes on from.

    Raises:
        UserError: what `checkpoint.chosen` refuses, or a checkpoint of a run with another recipe.
    """
    resume = checkpoint.chosen(args.resume_from_checkpoint, output)
    if resume is not None:
        model = [f.name for f in dataclasses.fields(ModelArguments)]
        if differing := _differing(settings, resume.parent, [*model, *datasets.KEYS.values(), *checkpoint.BINDING]):
            raise UserError(
                f"resume_from_checkpoint: {resume} is of another run ({differing[0]} differs), write another checkpoint, or start a new run."
            )
    return resume


def _differing(settings: Mapping[str, Any], folder: Path, keys: Iterable[str]) -> list[str]:
    """The keys, of some, in which a recipe is not that of the run in a folder, where there is one."""
    before = recipe.written(folder)
    if not before:
        return []
    settings = {**settings, "learning_rate": settings["learning_rate"] or before.get("learning_rate")}  # None: by the base's size
    return [key for key in keys if key in settings and before.get(key) != settings[key]]


def check_rows(resume: Path | None, probes: Mapping[str, Probe]) -> None:
    """See that the rows are those of the run that wrote a checkpoint, and that as many processes take them, before a model is loaded.

    Raises:
        UserError: they are not.
    """
    if resume is not None:
        rows = {datasets.KEYS[name]: checkpoint.digest(probes[name].rows) for name in ("forget", "retain") if name in probes}
        checkpoint.check(resume, {"processes": PartialState().num_processes, "rows": rows})


def say(args: UnlearnConfig, output: Path, resume: Path | None) -> None:
    """Say where a run goes on from, and where its checkpoints will be."""
    if resume is not None:
        logger.info("The run goes on from %s.", resume)
    if args.save_minutes:
        logger.info(
            "A checkpoint goes into %s every %g minutes; a run that is cut goes on with --resume_from_checkpoint true.",
            output,
            args.save_minutes,
        )
