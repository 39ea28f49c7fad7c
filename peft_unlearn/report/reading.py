"""A report from its file, of which every part that is read again has the form that `build.build` gives it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft_unlearn.config.keys import keys
from peft_unlearn.report.build import KINDS
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import read_json


def read(path: Path) -> dict[str, Any]:
    """The report in a file.

    Raises:
        UserError: there is none, or one that `build.build` has not made.
    """
    found = read_json(path)
    wrong = next((part for part, is_whole in WHOLE.items() if not is_whole(found.get(part))), None)
    if wrong is not None:
        raise UserError(f"{path}: this is no report, its {wrong!r} is not what a report has there; evaluate again, or remove the file.")
    return found


BUDGET = ("step", "of", "spent", "rows", "limit")  # of what training told of `retain_kl_max`


def _is_run(run: Any) -> bool:
    if not isinstance(run, dict) or not all(
        isinstance(run.get(key), str | None) for key in ("quantization", "stopped", "base", "model", "command")
    ):
        return False
    missed, returned, budget = (run.get(key) for key in ("missed", "returned", "retain_kl_max"))
    told = (
        (not missed or (isinstance(missed, dict) and None not in missed.values() and all(map(_is_number, missed.values()))))
        and (not returned or (isinstance(returned, list) and all(_are_numbers(pair) and len(pair) == 2 for pair in returned)))
        and (not budget or (isinstance(budget, dict) and _are_numbers([budget.get(key, "") for key in BUDGET]) and "from" in budget))
        and (not budget or _is_number(budget.get("way", 0)))
    )
    return told and ("settings" not in run or _is_training(run))


def _is_training(run: dict[str, Any]) -> bool:
    settings = run["settings"]
    if not isinstance(settings, dict) or "method" not in settings or type(run.get("steps")) is not int:
        return False
    return all(settings[key] in keys()[key].choices for key in ("method", "forget_loss", "combine") if key in settings)


def _is_curve(curve: Any) -> bool:
    return isinstance(curve, list) and all(isinstance(point, dict) and all(map(_is_number, point.values())) for point in curve)


def _is_results(results: Any) -> bool:
    """Sets of views of metrics."""
    views = _inner(results)
    entries = None if views is None else _inner({(name, view): found for name, of_set in results.items() for view, found in of_set.items()})
    return entries is not None and all(map(_is_entry, entries))


def _inner(found: Any) -> list[Any] | None:
    """The values of the values of a mapping of mappings; None where it is none."""
    if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
        return None
    return [one for value in found.values() for one in value.values()]


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and _is_number(entry.get("mean"))
        and type(entry.get("n")) is int
        and _are_numbers(entry.get("rows"))
        and (entry.get("interval") is None or (_are_numbers(entry["interval"]) and len(entry["interval"]) == 2))
        and (entry.get("layers") is None or _are_numbers(entry["layers"]))
    )


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(map(_is_number, values))


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_never_seen(found: Any) -> bool:
    return isinstance(found, Mapping) and found.get("kind", 0) in [*KINDS] and isinstance(found.get("name", 0), str | None)


WHOLE = {"run": _is_run, "curve": _is_curve, "results": _is_results, "never_seen": _is_never_seen}
