"""Requests to forget that keep coming: each adds an adapter, one can be taken out again, and all are composed, scored and put on record together.

A ledger is a folder: ledger.json (`util.journal`) says what was asked, when, and how it was judged, with hashes of rows and no text; ledger.key
is the secret that the hashes were made with; and each request has a folder with its run.
"""

import dataclasses
from pathlib import Path
from typing import Any

from peft_unlearn.util import journal
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import claimed
from peft_unlearn.util.redaction import public_name
from peft_unlearn.workflows.combine import combine
from peft_unlearn.workflows.requests import AddRequest, CombineRequest, ComposeRequest, LedgerRequest, RevokeRequest
from peft_unlearn.workflows.results import CombineResult, ScoreResult, TrainResult

FILE = "ledger.json"


def standing(folder: Path) -> dict[str, journal.Entry]:
    """The requests that were added and not revoked, by their names, oldest first."""
    found: dict[str, journal.Entry] = {}
    for entry in journal.read(folder / FILE):
        if entry["event"] == "add":
            found[entry["name"]] = entry
        elif entry["event"] == "revoke":
            found.pop(entry["name"])
    return found


def added(folder: Path) -> dict[str, journal.Entry]:
    """Every request that was ever added.

    Raises:
        UserError: there is none.
    """
    if not (found := _added(folder)):
        raise UserError(f"folder: {folder} holds no requests; begin with `peft-unlearn ledger add`.")
    return found


def _added(folder: Path) -> dict[str, journal.Entry]:
    return {entry["name"]: entry for entry in journal.read(folder / FILE) if entry["event"] == "add"}


def add(request: AddRequest) -> TrainResult:
    """Train a recipe's forgetting on top of the user's own LoRA and of the requests that stand, and enter it.

    Raises:
        UserError: a name that is taken, a recipe that names no LoRA of the user's own or another one, what `train` refuses, or a row to keep
            that a standing request asked to forget.
    """
    from peft_unlearn.config import recipe
    from peft_unlearn.workflows import checks

    folder = Path(request.folder)
    if request.name in _added(folder) or Path(request.name).name != request.name or request.name in (".", "..", FILE):
        raise UserError(f"name: {request.name!r} is taken or is no name of a folder, write another.")
    values = checks.recipe_values(dataclasses.replace(request, overrides={**request.overrides, "output_dir": str(folder / request.name)}))
    own, mode, first = values.get("adapter_name_or_path"), values.get("adapter_mode", "stack"), next(iter(_added(folder).values()), {})
    if not own or own != first.get("own", own):
        raise UserError(
            f"adapter_name_or_path: requests lie on top of one LoRA of your own, write {first.get('own', 'its folder or Hub name')}."
        )
    if mode != "stack":
        raise UserError(f"adapter_mode: requests lie on top of your own LoRA, which stays what it is; write stack, not {mode}.")
    recipe.check_files(values)

    from peft_unlearn.workflows import ledger_run

    with claimed(folder, key="folder"):
        return ledger_run.add(folder / FILE, request.name, values, standing(folder))


def compose(request: ComposeRequest) -> CombineResult:
    """Write one LoRA of the user's own and of all requests that stand, as `combine` does.

    Raises:
        UserError: no request that stands, or what `combine` refuses.
    """
    return combine(CombineRequest(parts(Path(request.folder)), request.output, rank=request.rank, energy=request.energy))


def parts(folder: Path) -> list[str]:
    """The adapters that are active together: the user's own, and those of the requests that stand.

    Raises:
        UserError: no request stands.
    """
    requests = standing(folder)
    own = next(iter(added(folder).values()))["own"]
    if not requests:
        raise UserError(f"folder: no request of {folder} stands, so that {own} is what there is.")
    return [own, *(str(folder / name) for name in requests)]


def revoke(request: RevokeRequest) -> journal.Entry:
    """Enter that a request is revoked. Its adapter is in nothing that is composed from now on; its folder stays.

    Raises:
        UserError: no such request stands.
    """
    folder = Path(request.folder)
    if request.name not in (found := standing(folder)):
        raise UserError(f"name: no request {request.name!r} stands, write one of {', '.join(found) or 'those that you will have added'}.")
    return journal.append(folder / FILE, {"event": "revoke", "name": request.name})


def score(request: LedgerRequest) -> ScoreResult:
    """Score the rows of every request again, as all that stand are active, and enter what came out.

    Raises:
        UserError: no requests, or rows that are not those that were asked for.
    """
    folder = Path(request.folder)
    added(folder)

    from peft_unlearn.workflows import ledger_run

    return ledger_run.score(folder / FILE, added(folder), parts(folder))


def record(request: LedgerRequest) -> str:
    """What was asked, when, by which rows, how it was judged and with which versions, as Markdown that a controller can file.

    Raises:
        UserError: no requests.
    """
    folder = Path(request.folder)
    added(folder)
    entries = journal.read(folder / FILE)
    lines = [
        f"# Requests to forget, {folder.resolve().name}",
        "",
        f"{len(entries)} entries; checksum of the last: `{journal.checksum(entries[-1])}`.",
    ]
    lines += ["Rows stand as keyed hashes (HMAC-SHA-256); whoever holds `ledger.key` and a row can tell whether it was asked for."]
    for entry in entries:
        lines += ["", *_told(entry)]
    return "\n".join(lines) + "\n"


def _told(entry: journal.Entry) -> list[str]:
    if entry["event"] == "revoke":
        return [f"## {entry['at']}: {entry['name']} revoked"]
    if entry["event"] == "score":
        rows = [f"| {name} | {_numbers(views['before'])} | {_numbers(views['after'])} |" for name, views in entry["scores"].items()]
        kl = f"Divergence on the retain set: {entry['retain_kl']:.4g}." if entry["retain_kl"] is not None else ""
        return [f"## {entry['at']}: all requests scored", "", kl, "", "| request | before | now |", "| --- | --- | --- |", *rows]
    versions = ", ".join(f"{name} {version}" for name, version in entry["versions"].items())
    return [
        f"## {entry['at']}: {entry['name']} asked for",
        "",
        f"- rows: {len(entry['rows'])}",
        f"- verdict: {entry['verdict'] or 'none'}",
        f"- before: {_numbers(entry['scores'].get('before', {}))}",
        f"- after: {_numbers(entry['scores'].get('after', {}))}",
        f"- never-seen: {_numbers(entry['scores'].get('never_seen', {}))}",
        f"- base: {entry['base']}{', revision ' + entry['revision'] if entry['revision'] else ''}",
        f"- your own LoRA: {public_name(entry['own'] or 'none')}",
        f"- method: {entry['method']}; adapter: `{entry['adapter']}`",
        f"- versions: {versions}",
        *(f"- `{row}`" for row in entry["rows"]),
    ]


def _numbers(scores: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in scores.items() if value is not None) or "not measured"
