"""The report as one HTML page: verdict, numbers, figures. Nothing is loaded from elsewhere, and no text of a row is shown unless it is given."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from peft_unlearn.report import attack_tables, plots, verdict
from peft_unlearn.report.build import KINDS, union
from peft_unlearn.util.numbers import show
from peft_unlearn.util.redaction import public_name, publish

HELP = {
    "loss": "Mean negative log-probability of the answer's tokens, in nats; forgotten is high, but not higher than never-seen.",
    "probability": "Probability of the answer, as a geometric mean over its tokens; forgotten is low.",
    "extraction_strength": "Share of the answer that greedy decoding completes by itself once it is given the rest; forgotten is low.",
    "exact_memorisation": "Share of the answer's tokens that are the model's first choice; forgotten is low.",
    "rouge_l": "Share of the answer's words that the model's own answer has in the same order; for reading only.",
    "min_k": "Mean of the lowest 40 % of the answer's log-probabilities; text seen in training is high.",
    "min_k_pp": "The same, each measured against all words that could stand there; text seen in training is high.",
    "zlib": "Loss divided by the compressed length of the answer; text seen in training is low.",
    "logit_lens": "Best recall of the answer's tokens by an inner layer; high means that the knowledge is still inside.",
    "truth_ratio": "Wrong answers' probability over the right one's; near or above 1 means that the truth is not preferred.",
    "worst_of_k": "The largest extraction strength over the question and its rephrasings; forgotten is low.",
    "degenerate": "Share of answers that are empty or repeat themselves; high means a broken model.",
    "refusal": "Share of answers that decline to answer.",
    "retain_kl": "How far the answers' distributions moved from before, in nats; high means side effects.",
    "loss_auc": "How well loss tells forget from holdout rows: .5 not at all, 1 as seen, below .5 as pushed away.",
    "zlib_auc": "How well loss by compressed length tells forget from holdout rows: .5 is not at all.",
    "min_k_auc": "How well Min-K tells forget from holdout rows: .5 not at all, 1 as seen, below .5 as pushed away.",
    "min_k_pp_auc": "How well Min-K++ tells forget from holdout rows: .5 is not at all.",
    "priv_leak": "Change of the Min-K AUC against never-seen's, in per cent; far from 0 on either side is a trace.",
    "forget_quality": "p-value that truth ratios come from the same distribution as never-seen's; high is good.",
    "model_utility": "Harmonic mean of what the model can still do; high is good.",
    "accuracy": "Share of multiple-choice questions answered right.",
    "verbmem": "Overlap of the continuation of a document's beginning with what follows in it; forgotten is low.",
    "knowmem": "Overlap of answers about the texts with the right ones; forgotten is low, retained is high.",
}

VERDICTS = {
    verdict.COLLAPSED: "The model lost what it was to keep.",
    verdict.NOT_FORGOTTEN: "What was to be forgotten is still there.",
    verdict.SUPPRESSED: "It is not said any more when asked plainly, and comes back when asked otherwise.",
    verdict.OVER_FORGOTTEN: "It was pushed beyond what a model shows that never saw it, and this is itself a trace.",
    verdict.FORGOTTEN: "By the tests below, and by nothing else, the model is like one that never saw the forget set.",
    None: "The numbers do not support any of the words.",
}

REASONS = 8  # of a verdict that are shown at once
SHOWN = 12  # rows whose share of text that can be drawn out is shown

STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:72rem;background:#fff;color:#1a1a1a;font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.4rem;margin:.2rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1.2rem 0 .3rem}
.verdict{border:2px solid #1a1a1a;border-left-width:12px;border-radius:4px;padding:.6rem 1rem;margin:1rem 0}
.verdict strong{font-size:1.5rem;letter-spacing:.02em}.bad{border-color:#9b1c1c}.warn{border-color:#8a5a00}.good{border-color:#1b5e20}
ul{padding-left:1.2rem;margin:.4rem 0}table{border-collapse:collapse;width:100%;font-size:.9rem;margin:.5rem 0}
th,td{text-align:left;padding:.3rem .5rem;border-bottom:1px solid #ddd;vertical-align:top}
th{border-bottom:2px solid #666}td.n{font-variant-numeric:tabular-nums;white-space:nowrap}td small,td.n small{color:#555}
tbody th{font-weight:600;border-bottom:1px solid #ddd;white-space:nowrap}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr));gap:1rem}
figure{margin:0}figure svg{width:100%;height:auto}figcaption,.small{font-size:.85rem;color:#444}
code,pre{font:.85rem/1.4 ui-monospace,monospace;background:#f4f4f4;border-radius:3px}code{padding:.1rem .3rem}
pre{padding:.6rem;white-space:pre-wrap;overflow-wrap:anywhere}
.bar{display:inline-block;width:4.5rem;height:.7rem;border:1px solid #888;margin-right:.4rem;background:#fff}
.bar i{display:block;height:100%;background:#444}dt{font-weight:600}dd{margin:0 0 .4rem}.answer{white-space:pre-wrap;overflow-wrap:anywhere}
@media(max-width:640px){thead{display:none}tr{display:grid;grid-template-columns:1fr 1fr;border-bottom:2px solid #bbb;padding:.3rem 0}
td,tbody th{border:0;padding:.1rem 0}tbody th,td.answer,td:not([data-k]){grid-column:1/-1}
td[data-k]::before{content:attr(data-k);color:#555;display:block;font-size:.75rem}td[data-k].empty{display:none}}
@media print{body{font-size:11px;max-width:none}.verdict,figure,tr{break-inside:avoid}details>*{display:block}}
"""


SHOWS_TEXT = ' data-text="shown"'  # of a page with texts of the forget set: `deploy.push` leaves it at home


def write(report: Mapping[str, Any], path: str | Path, texts: Mapping[str, Any] | None = None) -> None:
    """Write the page of `report` beside `path`, then rename it.

    Args:
        report: as `report.build` makes it, or as it is read back from report.json.
        texts: {"question": [...], "answers": {view: [...]}}, to be shown as they are; of a report that travels, leave them out.
    """
    path = Path(path)
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(page(report, texts), encoding="utf-8")
    os.replace(beside, path)


def page(report: Mapping[str, Any], texts: Mapping[str, Any] | None = None) -> str:
    """The whole page as text; arguments as of `write`. Local paths are cut to their last component, for pages travel."""
    report = {**report, **{key: publish(report[key], set()) for key in ("run", "never_seen")}}
    parts = [
        _head(report),
        _section("Numbers", *_tables(report)),
        _section("Attacks", attack_tables.page(report["attacks"]) if "attacks" in report else ""),
        _section("Figures", *_figures(report)),
        _section("Answers", _answers(texts) if texts else _redacted(report["results"])),
        _section("What the numbers mean", _help(report)),
        _section("How to make these numbers again", *_reproduce(report)),
    ]
    title = f"Unlearning report: {report['verdict']['word'] or 'no verdict'}"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    body = f"<body{SHOWS_TEXT if texts else ''}>{''.join(parts)}</body>"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<title>{title}</title><style>{STYLE}</style></head>\n{body}</html>\n'


def _head(report: Mapping[str, Any]) -> str:
    judged = report["verdict"]
    word = judged["word"]
    colour = "good" if word == verdict.FORGOTTEN else "warn" if word in (None, verdict.SUPPRESSED, verdict.OVER_FORGOTTEN) else "bad"
    run, never = report["run"], report["never_seen"]
    settings = run.get("settings", {})
    facts = {
        "method": settings.get("method"),
        "model": settings.get("model_name_or_path") or run.get("base") or run.get("model"),
        "precision": run.get("quantisation"),
        "never-seen": KINDS[never["kind"]] + (f": {never['name']}" if never["name"] else ""),
        "definitions": report["definitions"],
        "stopped early": run.get("stopped"),
    }
    lines = [f"<b>{key}</b> {escape(str(value))}" for key, value in facts.items() if value]
    thresholds = "".join(
        f'<tr><td class="n" data-k="line">{value:g}</td><td>{escape(verdict.MEANING[name])}</td></tr>'
        for name, value in judged["thresholds"].items()
    )
    return (
        f"<header><h1>Unlearning report</h1><p>{' · '.join(lines)}</p></header>"
        f'<section class="verdict {colour}" aria-label="verdict"><strong>{word or "NO VERDICT"}</strong><p>{VERDICTS[word]}</p>'
        f"{_reasons(judged['reasons'])}"
        f"<details><summary>The lines that decide, in the order of words</summary><table><thead><tr><th>line</th><th>meaning</th></tr></thead>"
        f"<tbody>{thresholds}</tbody></table></details></section>"
    )


def _reasons(reasons: Sequence[str]) -> str:
    """A list of the reasons. An audit gives some forty: what was not told stands with the first, and the other lines come on a click."""

    def items(chosen: Sequence[str]) -> str:
        return f"<ul>{''.join(f'<li>{escape(reason[:1].upper() + reason[1:])}</li>' for reason in chosen)}</ul>"

    shown = [reason for i, reason in enumerate(reasons) if i < REASONS or "(at " not in reason]
    further = [reason for reason in reasons if reason not in shown]
    more = f"<details><summary>{len(further)} further lines</summary>{items(further)}</details>" if further else ""
    return items(shown) + more


def _tables(report: Mapping[str, Any]) -> Iterator[str]:
    """A table for each set: a row for each metric, a column for each view and each difference."""
    yield (
        "<p class='small'>Means over rows, with bootstrap 95 % intervals. <b>Before</b> is the model with the adapter off, <b>after</b> with it "
        "on, <b>never-seen</b> what a model shows that never saw the forget set. Differences are taken row by row.</p>"
    )
    for name, views in report["results"].items():
        metrics, differences = union(views.values()), report["differences"].get(name, {})
        compared = union(differences.get(metric, {}) for metric in metrics)
        heads = ["metric", "rows", *views, *compared]
        rows = []
        for metric in metrics:
            found = [views[view].get(metric) for view in views]
            counts = "/".join(map(str, sorted({entry["n"] for entry in found if entry})))
            cells = [_number(view, entry) for view, entry in zip(views, found, strict=True)]
            cells += [_number(key, differences.get(metric, {}).get(key), sign="+") for key in compared]
            rows.append(f'<tr><th scope="row">{_label(metric)}</th><td class="n" data-k="rows">{counts}</td>{"".join(cells)}</tr>')
        columns = "".join(f'<th scope="col">{_label(head)}</th>' for head in heads)
        yield f"<h3>{escape(name)} set</h3><table><thead><tr>{columns}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _number(key: str, entry: Mapping[str, Any] | None, sign: str = "") -> str:
    label = _label(key)
    if entry is None:
        return f'<td class="n empty" data-k="{label}">–</td>'
    if entry["mean"] is None:
        return f'<td data-k="{label}"><small>{escape(entry["reason"])}</small></td>'
    plus = sign if entry["mean"] > 0 else ""
    interval = f" <small>[{show(entry['interval'][0])}, {show(entry['interval'][1])}]</small>" if entry["interval"] else ""
    return f'<td class="n" data-k="{label}">{plus}{show(entry["mean"])}{interval}</td>'


def _figures(report: Mapping[str, Any]) -> Iterator[str]:
    results, figures = report["results"], []
    if report["curve"]:
        caption = "Training: p of a token of the batches. Forgetting is a falling forget line beside a level retain line."
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
        caption = "Inside: recall of the forget set's answers, read off at each layer. A bump that never-seen has not is knowledge left."
        figures.append((plots.lens(layers), caption))
    if figures:
        yield f'<div class="figures">{"".join(f"<figure>{svg}<figcaption>{text}</figcaption></figure>" for svg, text in figures)}</div>'


def _values(entry: Mapping[str, Any] | None) -> list[float]:
    return [value for value in entry["rows"] if value is not None] if entry else []


def _answers(texts: Mapping[str, Any]) -> str:
    """Questions and answers as they are: every character that HTML would read as its own is escaped."""
    views: Mapping[str, Sequence[str]] = texts["answers"]
    heads = "".join(f'<th scope="col">{_label(head)}</th>' for head in ("question", *views))
    rows = []
    for question, *answers in zip(texts["question"], *views.values(), strict=True):
        cells = [f'<td class="answer" data-k="{_label(view)}">{escape(answer)}</td>' for view, answer in zip(views, answers, strict=True)]
        rows.append(f'<tr><td class="answer" data-k="question">{escape(question)}</td>{"".join(cells)}</tr>')
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _redacted(results: Mapping[str, Any]) -> str:
    """In place of answers: how much of each can be drawn out, for the rows of which most is left."""
    views = {
        view: metrics["extraction_strength"]["rows"]
        for view, metrics in results.get("forget", {}).items()
        if "extraction_strength" in metrics
    }
    if not views:
        return ""
    last = views.get("after") or list(views.values())[-1]
    order = sorted((i for i, value in enumerate(last) if value is not None), key=lambda i: (-last[i], i))[:SHOWN]
    heads = "".join(f'<th scope="col">{_label(head)}</th>' for head in ("row of the forget set", *views))
    rows = "".join(
        f'<tr><th scope="row">row {i + 1}</th>{"".join(_bar(view, rows[i]) for view, rows in views.items())}</tr>' for i in order
    )
    return (
        "<p class='small'>The texts are left out: what was to be forgotten stays out of a report that travels. In their place, the share of each "
        f"answer that the model completes by itself (extraction strength), for the {len(order)} rows of which most is left.</p>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _bar(view: str, value: float | None) -> str:
    if value is None:
        return f'<td class="n empty" data-k="{_label(view)}">–</td>'
    return f'<td class="n" data-k="{_label(view)}"><span class="bar" aria-hidden="true"><i style="width:{value:.0%}"></i></span>{show(value)}</td>'


def _help(report: Mapping[str, Any]) -> str:
    metrics = union(metrics for views in report["results"].values() for metrics in views.values())
    help_of = {
        metric: f"Expected largest overlap with the answer over {metric.removeprefix('leak_at_')} samples; forgotten is as low as never-seen."
        for metric in metrics
        if metric.startswith("leak_at_")
    } | {metric: HELP[metric] for metric in metrics if metric in HELP}
    return f"<dl>{''.join(f'<dt>{_label(metric)}</dt><dd>{escape(help_of[metric])}</dd>' for metric in metrics if metric in help_of)}</dl>"


def _reproduce(report: Mapping[str, Any]) -> Iterator[str]:
    run = report["run"]
    said = " ".join(public_name(word) for word in shlex.split(run.get("command", "")))
    command = "peft-unlearn train recipe.yaml" if "settings" in run else said
    if command:
        yield f"<pre>{escape(command)}</pre>"
    yield (
        "<p>Every number is in <code>report.json</code> beside this page, with the value of each row. Intervals: percentile bootstrap, 2 000 "
        "resamplings of the rows, seed 0. The settings, seeds and versions of the run:</p>"
        f"<details><summary>settings</summary><pre>{escape(json.dumps(run, indent=1))}</pre></details>"
        "<p class='small'>A test that was not made says nothing. Whoever has the base and the adapter can compare the two and draw out what was "
        "forgotten.</p>"
    )


def _label(name: str) -> str:
    return escape(name.replace("never_seen", "never-seen").replace("_", " ").replace(" - ", " − "))


def _section(title: str, *parts: str) -> str:
    body = "".join(parts)
    return f"<section><h2>{title}</h2>{body}</section>\n" if body else ""
