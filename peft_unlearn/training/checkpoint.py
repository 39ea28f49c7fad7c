"""What a checkpoint keeps beside adapter, optimizer and schedule: the states of the run's own components, in one safetensors file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

from peft_unlearn.util.errors import UserError

FILE = "unlearning_state.safetensors"


class Component(Protocol):
    """A part of a run that remembers something from one step to the next."""

    def state_dict(self) -> dict[str, Tensor]:
        """All that it remembers, by name."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Remember what a `state_dict` holds."""


def write(components: Mapping[str, Component], folder: Path) -> None:
    """Write the components' states into a checkpoint, each under the recipe key that its run has it by."""
    save_file({f"{key}.{name}": value for key, part in components.items() for name, value in part.state_dict().items()}, folder / FILE)


def restore(components: Mapping[str, Component], folder: Path) -> None:
    """Bring the components' states of a checkpoint back.

    Raises:
        UserError: the checkpoint holds an adapter only, or is of a run without one of the components.
    """
    if not (folder / FILE).is_file():
        raise UserError(f"resume_from_checkpoint: {folder} holds an adapter only (save_only_model), and no state to go on from.")
    saved = load_file(folder / FILE)
    for key, part in components.items():
        names = {name: f"{key}.{name}" for name in part.state_dict()}
        if not saved.keys() >= set(names.values()):
            raise UserError(f"{key}: the run that wrote {folder} did not have it; set it as in that run, or start a new run.")
        part.load_state_dict({name: saved[full] for name, full in names.items()})
