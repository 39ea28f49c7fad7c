"""The report as one HTML page: verdict, numbers, figures. Nothing is loaded from elsewhere, and no text of a row is shown unless it is given.

What is shown is gathered here, how it looks stands in page.html.jinja.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from peft_unlearn.metrics.suite import described
from peft_unlearn.report import criteria, plots, text
from peft_unlearn.report.build import KINDS
from peft_unlearn.report.summary import glossary, summarize, tally
from peft_unlearn.report.text import label, union
from peft_unlearn.report.thresholds import THRESHOLDS
from peft_unlearn.util import disk
from peft_unlearn.util.redaction import public_name, publish

BETTER = {"lower": "lower", "higher": "higher", "never_seen": "as the never-seen model", None: None}

COLOURS = {criteria.FORGOTTEN: "good", criteria.COLLAPSED: "bad", criteria.NOT_FORGOTTEN: "bad", **dict.fromkeys(text.ANSWERS, "plain")}
DECIDING = 3  # reasons of a verdict that stand beside the word; all criteria follow below
NAMED = 60  # rows that are named by number
SAMPLES = ("before", "after", "never_seen")
SHOWN = 12  # rows whose share of text that can be drawn out is shown
SHOWS_TEXT = Markup(' data-text="shown"')  # of a page with texts of the forget set: `publish.push` leaves it at home

_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_environment.filters |= {name: getattr(text, name) for name in ("show", "interval", "finding_cells", "finding_label", "label")}


def _code(sentence: str) -> Markup:
    """A sentence whose words between backticks are commands or keys."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(sentence))))


_environment.filters["code"] = _code


def write(report: Mapping[str, Any], path: str | Path, texts: Mapping[str, Any] | None = None) -> None:
    """Write the page of `report`.

    Args:
        report: as `report.build` makes it, or as it is read back from report.json.
        texts: {"question": [...], "answers": {view: [...]}}, to be shown as they are; of a report that travels, leave them out.
    """
    disk.write_text(Path(path), page(report, texts))


def page(report: Mapping[str, Any], texts: Mapping[str, Any] | None = None) -> str:
    """The whole page as text; arguments as of `write`. Local paths are cut to their last component, for pages travel."""
    run, never_seen = (publish(report[key], set()) for key in ("run", "never_seen"))
    said = summarize(report)
    tested = _tests(said.criteria)
    return _environment.get_template("page.html.jinja").render(
        said=said,
        colour=COLOURS.get(report["verdict"]["word"], "warn"),
        glossary=glossary(report),
        deciding=said.deciding[:DECIDING],
        tally=tally(said.criteria),
        tested=[found for found in tested if found["state"] != criteria.PASSED],
        passed_tests=[found for found in tested if found["state"] == criteria.PASSED],
        samples=_samples(report),
        forgetting=report["verdict"]["word"] not in text.ANSWERS,
        worst=report["verdict"]["worst_rows"],
        named=NAMED,
        thresholds={name: (limit, THRESHOLDS[name]) for name, limit in report["verdict"]["thresholds"].items()},
        facts=_facts(report, run, never_seen),
        sets={name: _set(views, report["differences"].get(name, {})) for name, views in report["results"].items()},
        attacks=report.get("attacks"),
        passed=text.PASSED,
        finding_heads=text.FINDING_HEADS,
        figures=_figures(report),
        texts=texts,
        shows_text=SHOWS_TEXT,
        answers=_answers(texts) if texts else None,
        left=_left(report["results"]),
        help=_help(report),
        command=_command(run),
        run=json.dumps(run, indent=1),
    )


def _tests(criteria: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Criteria as rows of the page's table. Those of one question without a number share a row: an attack has dozens."""
    rows: dict[Any, dict[str, Any]] = {}
    for i, found in enumerate(criteria):
        numbered = text.has_number(found)
        key = i if numbered else (found["question"], found["state"])
        if key in rows:
            rows[key]["texts"].append(found["text"])
            continue
        metric = _metric(found["name"])
        rows[key] = {
            **found,
            "texts": [found["text"]],
            "result": text.criterion_state(found),
            "number": text.criterion_number(found),
            "limit": text.criterion_limit(found),
            "gauge": _gauge(found) if numbered and found["name"] not in text.COUNTED else "",
            "help": metric and described(metric),
            "metric": metric and label(metric).replace("auc", "AUC"),
        }
    return list(rows.values())


def _gauge(found: Mapping[str, Any]) -> Markup:
    """A criterion's number as a drawing; shares on a scale of one length."""
    said = f"{text.criterion_number(found)}, allowed: {text.criterion_limit(found)}"
    end = 0.0 if found["name"] in text.NATS | text.AUC else 1.0
    return Markup(plots.gauge(found["value"], found["interval"], found["threshold"], said, end=end, at_least=text.at_least(found)))


def _metric(name: str) -> str | None:
    """The metric behind a criterion of this name; None where there is none to explain."""
    known = {"loss_short": "loss", "loss_beyond": "loss", "holdout_damage": "loss", "membership_above": "auc", "membership_below": "auc"}
    metric = known.get(name, name.removeprefix("kept_").removesuffix("_retain").replace("utility", "model_utility"))
    return metric if described(metric) else None


def _samples(report: Mapping[str, Any]) -> dict[str, Any]:
    """The test of three samples in a sentence, and a figure of the rows: before, after and of the never-seen model, and those of the holdout."""
    results, tested = report["results"], report["verdict"]["three_samples"]
    metric = tested["metrics"][0] if tested else "loss"
    forget, holdout = results.get("forget", {}), results.get("holdout", {}).get("after", {})
    rows = {view: _values(forget.get(view, {}).get(metric)) for view in SAMPLES} | {"holdout": _values(holdout.get(metric))}
    rows = {view: values for view, values in rows.items() if values}
    unit = " (nats a token)" if metric == "loss" else ""
    drawn = len(rows) > 1 and "after" in rows
    return {
        "text": tested["text"] if tested else None,
        "svg": Markup(plots.samples(rows, f"{label(metric)}{unit}")) if drawn else "",
        "views": list(rows),
    }


def _facts(report: Mapping[str, Any], run: Mapping[str, Any], never_seen: Mapping[str, Any]) -> dict[str, str]:
    settings = run.get("settings", {})
    found = {
        "method": settings.get("method"),
        "model": settings.get("model_name_or_path") or run.get("base") or run.get("model"),
        "precision": run.get("quantization"),
        "never-seen": KINDS[never_seen["kind"]] + (f": {never_seen['name']}" if never_seen["name"] else ""),
        "definitions": report["definitions"],
        "stopped early": run.get("stopped"),
    }
    return {key: str(value) for key, value in found.items() if value}


def _set(views: Mapping[str, Mapping[str, Any]], differences: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A set's table: a row for each metric, a column for each view and each difference."""
    metrics = union(views.values())
    compared = union(differences.get(metric, {}) for metric in metrics)
    rows = {}
    for metric in metrics:
        found = [views[view].get(metric) for view in views]
        rows[label(metric)] = {
            "counts": "/".join(map(str, sorted({entry["n"] for entry in found if entry}))),
            "views": [(label(view), entry) for view, entry in zip(views, found, strict=True)],
            "differences": [(_difference(key), differences.get(metric, {}).get(key)) for key in compared],
        }
    return {"heads": [*map(label, views), *map(_difference, compared)], "rows": rows}


def _difference(key: str) -> str:
    return label(key).replace(" - ", " − ")


def _figures(report: Mapping[str, Any]) -> list[dict[str, str]]:
    results, figures = report["results"], []
    if report["curve"]:
        caption = "Training: p of a token of the batches. Forgetting is a falling forget curve beside a level retain curve."
        figures.append((plots.trade_off(report["curve"]), caption))
    rows = {}
    for view in results.get("forget", {}):
        forget, holdout = (_values(results.get(name, {}).get(view, {}).get("min_k")) for name in ("forget", "holdout"))
        if forget and holdout:
            rows[view] = (forget, holdout)
    if rows:
        caption = (
            "Membership: where forget rows lie like holdout rows, they cannot be told apart; right of them looks seen, left pushed away."
        )
        figures.append((plots.histograms(rows), caption))
    layers = {view: metrics["logit_lens"].get("layers") for view, metrics in results.get("forget", {}).items() if "logit_lens" in metrics}
    layers = {view: values for view, values in layers.items() if values}
    if layers:
        caption = "Inside: recall of the forget set's answers, read off at each layer. A bump that the never-seen model has not is knowledge left."
        figures.append((plots.lens(layers), caption))
    return [{"svg": Markup(svg), "caption": caption} for svg, caption in figures]


def _values(entry: Mapping[str, Any] | None) -> list[float]:
    return [value for value in entry["rows"] if value is not None] if entry else []


def _answers(texts: Mapping[str, Any]) -> dict[str, Any]:
    """Questions and answers as they are."""
    views: Mapping[str, Sequence[str]] = texts["answers"]
    heads = [label(view) for view in views]
    rows = [
        (question, list(zip(heads, answers, strict=True))) for question, *answers in zip(texts["question"], *views.values(), strict=True)
    ]
    return {"heads": heads, "rows": rows}


def _left(results: Mapping[str, Any]) -> dict[str, Any]:
    """In place of answers: how much of each can be drawn out, for the rows of which most is left."""
    views = {
        view: metrics["extraction_strength"]["rows"]
        for view, metrics in results.get("forget", {}).items()
        if "extraction_strength" in metrics
    }
    heads = [label(view) for view in views]
    last = views.get("after") or (list(views.values())[-1] if views else [])
    order = sorted((i for i, value in enumerate(last) if value is not None), key=lambda i: (-last[i], i))[:SHOWN]
    rows = [(i, [(head, values[i]) for head, values in zip(heads, views.values(), strict=True)]) for i in order]
    return {"heads": heads, "rows": rows}


def _help(report: Mapping[str, Any]) -> dict[str, dict[str, str | None]]:
    """What each metric of the report is, and which way is better, from its own file."""
    metrics = union(metrics for views in report["results"].values() for metrics in views.values())
    found = {metric: described(metric) for metric in metrics}
    return {label(metric): {"help": part.help, "better": BETTER[part.direction]} for metric, part in found.items() if part is not None}


def _command(run: Mapping[str, Any]) -> str:
    if "settings" in run:
        return "peft-unlearn train recipe.yaml"
    return " ".join(public_name(word) for word in shlex.split(run.get("command", "")))
