"""What a ledger's commands do with models: train a request's adapter, hash its rows, and score all requests in one model."""

import hashlib
import hmac
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft_unlearn import data
from peft_unlearn.config import recipe
from peft_unlearn.data import formats
from peft_unlearn.merging import combining, lora
from peft_unlearn.training.apart import Apart
from peft_unlearn.util import journal
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import ADAPTER_CONFIG, read_json
from peft_unlearn.util.redaction import is_local, public_name
from peft_unlearn.workflows import train_run
from peft_unlearn.workflows.combine import combine
from peft_unlearn.workflows.evaluate import evaluate
from peft_unlearn.workflows.requests import CombineRequest, EvaluateRequest
from peft_unlearn.workflows.results import ScoreResult, TrainResult

logger = logging.getLogger(__name__)

KEY = "ledger.key"
BELOW = "before-{}"  # in a request's folder: what its adapter was trained on top of
KEPT = ("probability", "extraction_strength", "rouge_l")  # metrics of a set that the ledger keeps


def add(file: Path, name: str, values: Mapping[str, Any], before: Mapping[str, journal.Entry]) -> TrainResult:
    """Train and enter a request on top of the user's own LoRA and of the requests `before` it.

    Raises:
        UserError: what `train` refuses, or a row to keep that one of those asked to forget.
    """
    folder, own = file.parent, str(values["adapter_name_or_path"])
    place, below = folder / name, folder / name / BELOW.format(name)
    rows = hashes(folder, values["forget_dataset"], "forget_dataset")
    check_kept(folder, values, before)
    settings = dict(values)
    if before:
        shutil.rmtree(below, ignore_errors=True)  # of an attempt that was cut
        settings["adapter_name_or_path"] = str(combine(CombineRequest([own, *(str(folder / one) for one in before)], below)).folder)
        settings["reference_adapter_name_or_path"] = own  # or each request would hold the retain set to what those before have done to it
    earlier = {one: combining.read(folder / one) for one in before}
    callbacks = [Apart(combining.directions(combining.combined(earlier)))] if earlier else []
    held, gone = asked_for(folder, before)
    for one in gone:
        logger.warning(
            "Warning: the rows of %s are not there any more, so that nothing holds them forgotten while %s is trained.", one, name
        )
    forgotten = [data.load(spec, name="forget_dataset") for spec in held.values()]
    result = train_run.run(recipe.build(settings), callbacks=callbacks, forgotten=forgotten)
    report, config = result.report, read_json(place / ADAPTER_CONFIG)
    entry = {
        "event": "add",
        "name": name,
        "rows": rows,
        "own": own,
        "base": public_name(str(values["model_name_or_path"])),
        "revision": config.get("revision"),
        "method": report["run"]["settings"]["method"],
        "adapter": hashlib.sha256((place / lora.WEIGHTS).read_bytes()).hexdigest(),
        "verdict": report["verdict"]["word"],
        "scores": _kept(report["results"]["forget"]),
        "retain_kl": _mean(report["results"]["retain"]["after"], "retain_kl"),
        "versions": report["run"]["versions"],
    }
    journal.append(file, entry)
    return result


def check_kept(folder: Path, values: Mapping[str, Any], requests: Mapping[str, journal.Entry]) -> None:
    """See that a recipe's sets teach nothing again that these requests asked to forget.

    Raises:
        UserError: names the first such row, counted from 1, and how many there are.
    """
    asked = {row: name for name, entry in requests.items() for row in entry["rows"]}
    for key in ("retain_dataset", "holdout_dataset"):
        rows = hashes(folder, values[key], key) if asked and values.get(key) else []
        if found := [number for number, row in enumerate(rows, start=1) if row in asked]:
            more = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
            name = asked[rows[found[0] - 1]]
            raise UserError(f"{key}: row {found[0]}{more} is one that {name} asked to forget; take it out, or revoke {name}.")


def hashes(folder: Path, dataset: Any, key: str) -> list[str]:
    """A keyed hash of what each row of a set says, in whatever format. The secret is made with the first of them, and stays in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / KEY
    if not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
    secret = bytes.fromhex(path.read_text(encoding="ascii"))
    rows = data.said(formats.settled(data.load(dataset, name=key), key), key)
    return [hmac.new(secret, json.dumps(row, ensure_ascii=False).encode(), hashlib.sha256).hexdigest() for row in rows]


def asked_for(folder: Path, requests: Mapping[str, journal.Entry]) -> tuple[dict[str, Any], list[str]]:
    """The forget sets of requests, as their recipes name them, and the names of those whose files are gone.

    Raises:
        UserError: rows that are not those that were asked for.
    """
    sets, gone = dict[str, Any](), list[str]()
    for name, entry in requests.items():
        spec = recipe.written(folder / name).get("forget_dataset")
        if isinstance(spec, str) and is_local(spec) and not Path(spec).exists():
            gone.append(name)
        elif hashes(folder, spec, "forget_dataset") != entry["rows"]:
            raise UserError(f"name: the rows of {name} are not those that were asked for; restore its file, or take it away.")
        else:
            sets[name] = spec
    return sets, gone


def score(file: Path, requests: Mapping[str, journal.Entry], parts: Sequence[str]) -> ScoreResult:
    """Evaluate the rows of every request in the model that all standing ones make, before and after, and enter it."""
    folder = file.parent
    sets, skipped = asked_for(folder, requests)
    for name in skipped:
        logger.warning("Warning: the rows of %s are not there any more, so that it is not scored.", name)
    if not sets:
        raise UserError(f"folder: the rows of no request of {folder} are there any more.")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".score-") as scratch:
        composed = combine(CombineRequest(parts, Path(scratch) / "composed")).folder
        last = list(sets)[-1]
        made = evaluate(
            EvaluateRequest(
                composed,
                forget=sets[last],
                retain=recipe.written(folder / last)["retain_dataset"],
                settings={"eval_dataset": {name: spec for name, spec in sets.items() if name != last}},
            )
        ).report["results"]
    scores = {name: _kept(made["forget" if name == last else name]) for name in sets}
    divergence = _mean(made["retain"]["after"], "retain_kl")
    journal.append(file, {"event": "score", "scores": scores, "retain_kl": divergence, "skipped": skipped})
    return ScoreResult(scores, divergence, tuple(skipped))


def _kept(views: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    return {view: {metric: _mean(found, metric) for metric in KEPT} for view, found in views.items()}


def _mean(found: Mapping[str, Any], metric: str) -> float | None:
    return found[metric]["mean"] if metric in found else None
