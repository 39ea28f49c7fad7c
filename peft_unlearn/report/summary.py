"""What a person is told first of a report, in plain sentences: the word, what it means, what it rests on, and what to do next.

The terminal, the page and the card all say it, each in its own form.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from peft_unlearn.report import criteria as c
from peft_unlearn.report.knowledge import KNOWN, NOT_KNOWN, PARTLY_KNOWN
from peft_unlearn.report.text import ANSWERS, answered, has_number
from peft_unlearn.util.redaction import public_name

MEANING = {
    c.COLLAPSED: "The model lost what it was to keep.",
    c.NOT_FORGOTTEN: "The model still knows what it was to forget.",
    c.SUPPRESSED: "Asked plainly, the model does not say it any more; it is still inside, and comes back in other ways.",
    c.OVER_FORGOTTEN: "The model was pushed further than one that never saw these texts would be, and this is itself a trace of them.",
    c.UNSHOWN: "These rows are too few to tell: nothing was found, and nothing is proved.",
    c.FORGOTTEN: "By these tests, and by nothing else, the model is like one that never saw these texts.",
    KNOWN: "The model knows these texts.",
    PARTLY_KNOWN: "The model knows some of these texts, or parts of them.",
    NOT_KNOWN: "The model shows no more of these texts than one that never saw them.",
    None: "The numbers support none of the words: whether the model forgot cannot be said.",
}
NO_REFERENCE = "Nothing was found, and nothing is proved: nothing shows what a model says of these texts that never saw them."
NO_WORD = "NO VERDICT"

WORDS = {
    "forget": "Forget set: what the model was to forget.",
    "retain": "Retain set: what it was to keep.",
    "holdout": "Holdout set: text of the same kind that it was never taught.",
    "never_seen": "Never-seen model: one that was never taught the forget set.",
}

STATES = (c.FAILED, c.NOT_SHOWN, "not measured", c.PASSED)  # what a reader must know comes first

# A word of a sentence that is a path: /home/me/x, ~/x, ../x, C:\x; no fraction, and no end of a tag.
PATH = re.compile(r"(?<![\w.<])(?:~|\.{1,2}|[A-Za-z]:)?[/\\]\S*\w")


class Summary(NamedTuple):
    """A report in sentences without local paths; criteria as the report has them, the failed ones first, as they decided.

    `deciding` is what gave the word, the most telling first: questions with their answers. `untested` is what no criterion was there for.
    """

    word: str
    meaning: str
    training: list[str]
    reference: str
    measured: str
    deciding: list[str]
    untested: list[str]
    following: list[str]
    criteria: list[dict[str, Any]]


def summarize(report: Mapping[str, Any]) -> Summary:
    """What is said of `report`, as `report.build` makes it."""
    verdict = report["verdict"]
    reasons = [without_paths(reason) for reason in verdict["reasons"]]
    criteria = [{**found, **{key: without_paths(found[key]) for key in ("question", "text")}} for found in verdict["criteria"]]
    criteria.sort(
        key=lambda found: (STATES.index(found["state"]), reasons.index(found["text"]) if found["text"] in reasons else len(reasons))
    )
    training, reference = [without_paths(said) for said in verdict["training"]], without_paths(verdict["reference"]["text"])
    if verdict["word"] in ANSWERS:
        reference = ""  # its base stands beside each number
    judged = {form: found for found in criteria for form in (found["text"], f"Not shown: {found['text']}")}
    deciding = [reason for i, reason in enumerate(reasons) if i == 0 or reason in judged or verdict["word"] in ANSWERS]
    unproved = verdict["word"] == c.UNSHOWN and verdict["reference"]["kind"] is None
    return Summary(
        verdict["word"] or NO_WORD,
        NO_REFERENCE if unproved else MEANING[verdict["word"]],
        training,
        reference,
        _measured(report),
        _answers([judged.get(reason, reason) for reason in deciding]),
        [reason for reason in reasons if reason not in (*deciding, *training, reference)],
        [without_paths(said) for said in verdict["next"]],
        criteria,
    )


def tally(criteria: Sequence[Mapping[str, Any]]) -> str:
    """How many criteria there are of each state, in words; nothing of none."""
    criteria = [found for found in criteria if found["word"] not in ANSWERS]
    counts = {state: sum(found["state"] == state for found in criteria) for state in STATES}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{len(criteria)} test{'s' * (len(criteria) > 1)}: {said}" if said else ""


def glossary(report: Mapping[str, Any]) -> str:
    """Our words for sets and models, as far as the report has them; none where nothing was to be forgotten."""
    if report["verdict"]["word"] in ANSWERS:
        return ""
    views = {view for of_set in report["results"].values() for view in of_set}
    return " ".join(text for name, text in WORDS.items() if name in report["results"] or name in views)


def without_paths(sentence: str) -> str:
    """A sentence whose local paths are cut to their last component."""
    return PATH.sub(lambda found: public_name(found[0]), sentence)


def _answers(reasons: Sequence[str | Mapping[str, Any]]) -> list[str]:
    """A line for each reason or criterion. Of one question's criteria without a number the first stands for all: an attack has dozens."""
    lines: dict[Any, list[str]] = {}
    for i, reason in enumerate(reasons):
        if isinstance(reason, str):
            lines[i] = [reason]
        else:
            key = i if has_number(reason) else (reason["question"], reason["state"])
            lines.setdefault(key, []).append(answered(reason))
    return [f"{first} And {len(more)} more of its kind." if more else first for first, *more in lines.values()]


def _measured(report: Mapping[str, Any]) -> str:
    """How many rows of each set were measured, and which of them belong together."""
    said = []
    for name, views in report["results"].items():
        rows = max((len(entry["rows"]) for metrics in views.values() for entry in metrics.values()), default=0)
        if not rows:
            continue
        text = f"{rows} row{'s' * (rows > 1)} of the {name} set"
        if name in report["groups"]:
            together = report["groups"][name]
            groups = len(set(together["ids"]))
            text += f" in {groups} group{'s' * (groups > 1)} ({together['by']})"
        said.append(text)
    return f"Measured on {', '.join(said)}." if said else "No row was measured."
