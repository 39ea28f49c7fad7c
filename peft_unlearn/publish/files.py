"""The files of an adapter's or a merged model's folder that may leave this machine, with the names that they go by elsewhere."""

import json
import logging
import re
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, ModelCard, constants

from peft_unlearn.config import reading
from peft_unlearn.merging import lora, merging, shards
from peft_unlearn.publish.card_parts import in_backticks, linked, repository, source
from peft_unlearn.report import page
from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import ADAPTER_CONFIG, read_json
from peft_unlearn.util.redaction import public_name, publish

logger = logging.getLogger(__name__)

CONFIG, CARD, PAGE, RECIPE = constants.CONFIG_NAME, "README.md", "report.html", "recipe.yaml"
JSON_FILES, YAML_FILES, PROSE_FILES = [ADAPTER_CONFIG, CONFIG, "report.json", merging.REPORT], [RECIPE], [CARD, PAGE]
CODE = re.compile(r"^```python\n.*?^```", re.MULTILINE | re.DOTALL)  # of a card
COMMAND = re.compile(r"^    peft-unlearn .*$", re.MULTILINE)


def publishable(
    folder: Path, *, repo: str | None = None, base: str | None = None, below: str | None = None
) -> tuple[dict[str, str], list[CommitOperationAdd]]:
    """What of a folder is uploaded: its texts by name, without local paths, and every file.

    Args:
        repo: name on the Hub of what is in the folder; the card's code then loads it from there.
        base, below: names on the Hub of its base, and of the adapter that it was trained on, where they are local folders here.

    Raises:
        UserError: neither an adapter nor a whole model in the folder, or weights that are cut.
    """
    is_adapter, weights = _weights(folder)
    names = [name for name in (*JSON_FILES, *YAML_FILES, *PROSE_FILES) if (folder / name).is_file()]
    texts = {name: _text(folder / name) for name in names}
    if page.SHOWS_TEXT in texts.get(PAGE, ""):
        logger.warning("report.html shows texts of the forget set and stays on this machine.")
        del texts[PAGE]
    local = _local_names(folder, is_adapter)
    known = {path: hub for path, hub in ((local["base"], base), (local["below"], below)) if path and hub}
    hidden: set[str] = set()
    for name in texts:
        if name in JSON_FILES:
            texts[name] = _json(texts[name], {"base_model_name_or_path": base} if name == ADAPTER_CONFIG else {}, hidden, known)
        elif name in YAML_FILES:
            texts[name] = _yaml(texts[name], {"model_name_or_path": base, "adapter_name_or_path": below}, hidden, known)
        else:
            for path in sorted(hidden, key=len, reverse=True):  # the longest first: one may begin another
                texts[name] = re.sub(rf"(?<![\w./]){re.escape(path)}(?!\w)", known.get(path) or public_name(path), texts[name])
    if CARD in texts:
        renamed = {folder.resolve().name: repo, **{public_name(path): hub for path, hub in known.items()}}
        texts[CARD] = _named(texts[CARD], {old: new for old, new in renamed.items() if new}, base)
    for path in sorted(hidden):
        logger.warning("%s is uploaded as %s: local paths stay on this machine.", path, known.get(path) or public_name(path))
    whole = [*weights, *(shards.TOKENIZER_FILES if is_adapter else [*shards.MODEL_FILES, *shards.LICENSE_FILES])]
    files = sorted({path for pattern in whole for path in folder.glob(pattern) if path.name not in texts})
    operations = [CommitOperationAdd(name, text.encode()) for name, text in texts.items()]
    return texts, [*operations, *(CommitOperationAdd(path.name, path) for path in files)]


def _text(path: Path) -> str:
    """What stands in a file, which is seen to be what its name says."""
    with boundary(f"{path}: it is damaged and cannot be uploaded", "write it again, or remove it"):
        text = path.read_text(encoding="utf-8")
        if path.name in JSON_FILES:
            json.loads(text)
        elif path.name in YAML_FILES:
            reading.load(path)
        return text


def says_no_base(folder: Path) -> bool:
    """Whether there is a card that names no base on the Hub, for the base is a folder here."""
    if not (folder / CARD).is_file():
        return False
    card: Any = ModelCard.load(folder / CARD, ignore_metadata_errors=True)
    return card.data.base_model is None


def _weights(folder: Path) -> tuple[bool, list[str]]:
    """Whether the folder is an adapter's, and its files of weights, each of them whole."""
    if (folder / ADAPTER_CONFIG).is_file():
        if not (folder / lora.WEIGHTS).is_file():
            raise UserError(f"{folder / lora.WEIGHTS}: there is no such file; give a folder with a saved adapter.")
        with shards.opened(folder / lora.WEIGHTS):
            return True, [lora.WEIGHTS]
    if (folder / CONFIG).is_file():
        found = {tensor.shard for tensor in shards.checkpoint(folder).values()}
        return False, [*sorted(found), *([shards.INDEX] if found != {shards.SINGLE} else [])]
    raise UserError(
        f"{folder / ADAPTER_CONFIG}: there is no such file, and no {CONFIG}; give a folder with a saved adapter or a merged model."
    )


def _local_names(folder: Path, is_adapter: bool) -> dict[str, str | None]:
    """What base and adapter below are called on this machine."""
    recipe = reading.load(folder / RECIPE) if (folder / RECIPE).is_file() else {}
    if not is_adapter:
        made = read_json(folder / merging.REPORT) if (folder / merging.REPORT).is_file() else {}
        return {"base": made.get("base"), "below": None}
    return {"base": read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path"), "below": recipe.get("adapter_name_or_path")}


def _json(text: str, known: Mapping[str, str | None], hidden: set[str], names: Mapping[str, str]) -> str:
    found, before = json.loads(text), len(hidden)
    cut = _with(publish(found, hidden, names), known)
    return text if cut == found and len(hidden) == before else json.dumps(cut, indent=2) + "\n"


def _yaml(text: str, known: Mapping[str, str | None], hidden: set[str], names: Mapping[str, str]) -> str:
    found = yaml.safe_load(text)
    cut = _with(publish(found, hidden, names), known)
    return text if cut == found else yaml.safe_dump(cut, sort_keys=False)


def _with(data: Any, known: Mapping[str, str | None]) -> Any:
    """A mapping with what is known of some of its keys instead of what it says there."""
    return {**data, **{key: value for key, value in known.items() if value and data.get(key)}} if isinstance(data, dict) else data


def _named(card: str, names: Mapping[str, str], base: str | None) -> str:
    """A card whose code and metadata call things by their names on the Hub; its other words stay as they are.

    In code a name is a string of Python, or a word of a shell's command, and is only changed as a whole.
    """
    for old, new in names.items():
        card = CODE.sub(partial(_replaced, source(old), source(new)), card)
        if new == base:
            card = card.replace(f" makes {in_backticks(old)} forget", f" makes {linked(new)} forget")
            card = card.replace(f"\n{in_backticks(old)} with the forgetting adapter", f"\n{linked(new)} with the forgetting adapter")
    card = COMMAND.sub(partial(_renamed, names), card)
    if base is None:
        return card
    made: Any = ModelCard(card, ignore_metadata_errors=True)
    made.data.base_model = repository(base)
    return str(made)


def _renamed(names: Mapping[str, str], command: re.Match[str]) -> str:
    try:
        return "    " + shlex.join(names.get(word, word) for word in shlex.split(command[0]))
    except ValueError:  # a line that somebody wrote, and no command
        return command[0]


def _replaced(old: str, new: str, block: re.Match[str]) -> str:
    return block[0].replace(old, new)
