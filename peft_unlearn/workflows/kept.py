"""What was found of an adapter so far: each view's evaluation, and what attacks showed. audit.json beside a report keeps it.

A run leaves its evaluations there, and an audit goes on from them. Each stands under a key of all that its numbers depend on, so that for a changed
adapter all begins anew.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft_unlearn
from peft_unlearn import attacks, report
from peft_unlearn.benchmarks import Sets
from peft_unlearn.config.unlearn_config import ModelArguments
from peft_unlearn.data.variants import Probe
from peft_unlearn.util import disk
from peft_unlearn.util.folders import ADAPTER_CONFIG, read_json

FILE = "audit.json"
ATTACKED = ("never_seen", "after")
WEIGHTS = ("*.safetensors", ADAPTER_CONFIG, "config.json")


class Progress:
    """What of an audit is done: results by view and set, what each attack showed of each view, and facts of the run.

    Rows that are not finite are written as such (NaN, which Python's json reads back): as null they would read as rows with nothing to measure.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        found = read_json(path) if path.is_file() else {}
        if found.get("key") != key or not self._whole(found):
            found = {"views": {}, "shown": {view: {} for view in ATTACKED}, "facts": {}}
        self.views: dict[str, dict[str, Any]] = found["views"]
        self.shown: dict[str, dict[str, Any]] = found["shown"]
        self.facts: dict[str, Any] = found["facts"]

    @staticmethod
    def _whole(found: dict[str, Any]) -> bool:
        """Whether a file has the parts that `write` writes."""
        parts = [found.get(part) for part in ("views", "shown", "facts")]
        return all(isinstance(part, dict) for part in parts) and all(isinstance(found["shown"].get(view), dict) for view in ATTACKED)

    def keep(self, view: str, found: Sets) -> None:
        """An evaluation, as it stands now."""
        self.views[view] = {name: dict(evaluation) for name, evaluation in found.items()}

    def missing(self, chosen: Sequence[attacks.Attack], view: str, full: bool) -> list[attacks.Attack]:
        """The attacks that are still to be made on a view; a short form does not stand for the full one."""
        made = {name for name, entry in self.shown.get(view, {}).items() if entry["full"] or not full}
        return [attack for attack in chosen if attack.name not in made and (view == "after" or (view in ATTACKED and attack.control))]

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        disk.write_text(self.path, json.dumps({"key": self.key, "views": self.views, "shown": self.shown, "facts": self.facts}))


def key(model: ModelArguments, folder: Path, never_seen: Path | None, probes: Mapping[str, Probe], others: Sequence[str] = ()) -> str:
    """Of everything that the numbers depend on: adapter and settings, models by their files, the tokenized rows.

    Args:
        model: as the recipe in `folder` has it.
        others: adapters that are combined with this one.
    """
    inputs = [
        peft_unlearn.__version__,
        report.SCHEMA,
        repr(model),
        list(others),
        [_files(Path(name)) for name in (folder, model.model_name_or_path or "", never_seen or "", *others)],
        {name: [list(found.rows.select_columns(["input_ids", "labels"])), found.variants] for name, found in probes.items()},
    ]
    return hashlib.sha256(json.dumps(inputs, default=str, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of writing of a local folder's weights, and of what says how they are used."""
    found = [file for pattern in WEIGHTS for file in folder.glob(pattern)] if folder.is_dir() else []
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(found)]
