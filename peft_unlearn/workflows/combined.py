"""What stands beside a combined adapter: the recipe of its forgetting, as one that trained the user's own adapter further, its report and card."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from peft_unlearn import publish
from peft_unlearn.config import recipe
from peft_unlearn.merging import lora, shards
from peft_unlearn.publish.model_card import shown
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import ADAPTER_CONFIG, locate, read_json, same_model
from peft_unlearn.util.redaction import public_name
from peft_unlearn.workflows.requests import Name

logger = logging.getLogger(__name__)

REPORT = "report.json"


def located(adapter: Name) -> Path:
    """The folder of an adapter, or of a copy from the Hub."""
    return locate(adapter, [ADAPTER_CONFIG, lora.WEIGHTS, recipe.FILE, REPORT, *shards.TOKENIZER_FILES], key="adapters")


def settings_of(forgetting: Path, adapters: Sequence[Name]) -> dict[str, Any]:
    """The recipe of the run that wrote `forgetting`, with the first of the adapters as the one that is trained further; empty if none wrote it.

    Raises:
        UserError: that run trained the user's own adapter further, which is in it already.
    """
    settings = recipe.known(recipe.written(forgetting))
    below = settings.get("adapter_name_or_path")
    if below and settings.get("adapter_mode") == "continue":
        raise UserError(f"adapters: {forgetting} is {below} trained further, and is one LoRA already; use it as it is.")
    of_a_ledger = below and Path(below).parent == Path(forgetting)
    if below and not of_a_ledger and not any(same_model(below, name) for name in adapters):
        logger.warning("Warning: %s was trained on top of %s, which is not among the adapters.", forgetting, below)
    own = {"adapter_name_or_path": str(adapters[0]), "adapter_mode": "continue", "reference_adapter_name_or_path": None}
    return settings | own if settings else {}


def write_run(folder: Path, forgetting: Path, settings: Mapping[str, Any], *, exact: bool) -> None:
    """Write recipe and card of a combined adapter, and the report of the two where their sum is exact."""
    (folder / recipe.FILE).write_text(yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True), encoding="utf-8")
    report = read_json(forgetting / REPORT) if (forgetting / REPORT).is_file() else None
    adapter = read_json(folder / ADAPTER_CONFIG)
    publish.write_card(
        folder,
        base=adapter["base_model_name_or_path"] or str(settings["model_name_or_path"]),
        method=str(settings["method"]),
        settings=shown(settings, adapter, report["run"]["steps"] if report else settings.get("max_steps", 0)),
        quantization=report["run"]["quantization"] if report else None,
        revision=adapter.get("revision"),
        report=report if exact else None,
        below=public_name(str(settings["adapter_name_or_path"])),
        below_mode="continue",
    )
    if exact and report:
        shards.copy_files(forgetting, folder, [REPORT, "report.html"])
