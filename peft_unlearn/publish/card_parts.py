"""What the cards of an adapter and of a merged model have in common: numbers as metadata and tables, the verdict, and text as Markdown shows it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult

from peft_unlearn.report.criteria import FAILED
from peft_unlearn.report.summary import NO_WORD, Summary
from peft_unlearn.report.text import PASSED, criterion_limit, criterion_number, criterion_state, interval, label, union
from peft_unlearn.util.gguf import is_gguf, is_hub_name, joined_name, on_hub
from peft_unlearn.util.numbers import show
from peft_unlearn.util.redaction import publish


def eval_results(results: Mapping[str, Any]) -> list[EvalResult]:
    """The means of every view, before, after and never-seen, for the card's metadata."""
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="unlearning",
            dataset_name=f"{name} set",
            dataset_split=name,  # results are told apart by the split, not by the name
            metric_type=metric,
            metric_name=f"{label(metric)}, {label(view)}",
            metric_value=entry["mean"],
        )
        for name, views in results.items()
        for view, of_view in views.items()
        for metric, entry in of_view.items()
        if entry["mean"] is not None
    ]


def facts(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the card's metadata says of a report beside its numbers."""
    return {"verdict": report["verdict"]["word"], "never_seen": report["never_seen"]["kind"], "definitions": report["definitions"]}


def verdict(said: Summary, stopped: bool) -> str:
    """The word, what happened in training and what it rests on, for the first paragraph; then what failed, and what to do next."""
    training = [*said.training, "This is the last good adapter."] if stopped else said.training
    first = [f"**{said.word}**: {said.meaning}", *training, said.measured, said.reference]
    failed = [found["text"] for found in said.criteria if found["state"] == FAILED]
    blocks = {"What failed": failed, "What to do next": said.following, "What was not tested": said.untested}
    if said.word == NO_WORD:
        first += said.deciding[:1]
    lists = ["\n".join([f"{head}:\n", *(f"- {as_sentence(line)}" for line in lines)]) for head, lines in blocks.items() if lines]
    return "\n\n".join([" ".join(map(as_sentence, first)), *lists])


def test_table(criteria: Sequence[Mapping[str, Any]]) -> str:
    """A row for each criterion: its question, its result, its number and what is allowed. Attacks have a table of their own."""
    rows = [
        f"| {one_line(as_sentence(found['question']))} | {criterion_state(found)} | {criterion_number(found)} | {criterion_limit(found)} |"
        for found in criteria
        if not found["name"].startswith("attack_")
    ]
    if not rows:
        return ""
    return "\n".join(["| question | result | measured | allowed |", "| --- | --- | --- | --- |", *rows]) + "\n\n"


def as_sentence(text: str) -> str:
    """A sentence on one line, with a capital, and no markup but between backticks."""
    text = escape(" ".join(text.split()), quote=False)
    return f"{text[:1].upper()}{text[1:]}"


def one_line(text: str) -> str:
    """Text within a row of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def metric_table(results: Mapping[str, Any]) -> str:
    """A row for each metric of each set, a column for each view."""
    if not results:
        return "This run was not evaluated."
    views = union(results.values())
    lines = [f"| set | metric | {' | '.join(label(view) for view in views)} | rows |", "| --- " * (len(views) + 3) + "|"]
    for name, of_set in results.items():
        for metric in union(of_set.values()):
            entries = [of_set.get(view, {}).get(metric) for view in views]
            rows = max(entry["n"] for entry in entries if entry)
            lines.append(f"| {in_cell(name)} | {label(metric)} | {' | '.join(map(_number, entries))} | {rows} |")
    return "\n".join(lines)


def _number(entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry["mean"] is None:
        return "-"
    return show(entry["mean"]) + interval(entry)


def attack_table(attacks: Mapping[str, Any]) -> str:
    """A row for each attack of an audit: what it tried, and whether the model passed it."""
    if not attacks:
        return ""
    rows = [
        f"| {name} | {in_cell(attack['title'])} | {PASSED[attack['passed']]}{in_cell(f' ({reason})') if (reason := attack['reason']) else ''} |"
        for name, attack in attacks.items()
    ]
    return "\n".join(["", "| attack | what was tried | |", "| --- | --- | --- |", *rows]) + "\n"


def quoted(name: str) -> str:
    """A name as Python writes it."""
    return json.dumps(name, ensure_ascii=False)


def source(name: str) -> str:
    """What `from_pretrained` is given for a model, as Python writes it: its name; of a GGUF file its repository or folder, and the file."""
    if not is_gguf(name):
        return quoted(name)
    folder, file = on_hub(name) if is_hub_name(name) else (".", name)
    if joined_name(file) != file:  # transformers reads one file
        folder, file = ".", joined_name(file)
    return f"{quoted(folder)}, gguf_file={quoted(file)}"


def joining(name: str) -> str:
    """A line of Python that says how to make one file of a model's parts; none of another model."""
    file = on_hub(name)[1] if is_hub_name(name) else name
    if not is_gguf(name) or joined_name(file) == file:
        return ""
    return f"# first, where the parts are: llama-gguf-split --merge {shlex.join([file, joined_name(file)])}\n"


def repository(name: str) -> str:
    """The repository of a model on the Hub, also where the model is a GGUF file in it."""
    return on_hub(name)[0] if is_hub_name(name) else name


def linked(name: str) -> str:
    """A name on the Hub, with its address."""
    return f"[{plain(name)}](https://huggingface.co/{quote(repository(name))})"


def in_backticks(name: str) -> str:
    """A name in backticks, which cannot hold one, within a table or a sentence."""
    shown = one_line(name).replace("`", "'")
    return f"`{shown}`"


def plain(value: str) -> str:
    """What shows as it stands: HTML in a name is none."""
    return escape(value, quote=False)


def in_cell(value: Any) -> str:
    """A value on one line of a Markdown table, its paths cut short."""
    value = publish(value, hidden=set())
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return one_line(plain(text))
