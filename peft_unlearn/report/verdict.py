"""One word for a run, from the numbers of its report alone: the worst that its criteria speak for, and FORGOTTEN AS TESTED where all have passed.

Every criterion is a statistical test of its own (`criteria`). A failed one gives its word; all failed ones are listed, the worst first. Where none
failed but not all could be shown with these rows, the word is NOT SHOWN. It is None where no word would be true: nothing was there to forget.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from peft_unlearn.metrics.three_samples import three_samples
from peft_unlearn.report import advice, knowledge
from peft_unlearn.report.criteria import (
    COLLAPSED,
    FAILED,
    FORGOTTEN,
    NOT_FORGOTTEN,
    NOT_SHOWN,
    OVER_FORGOTTEN,
    PASSED,
    SUPPRESSED,
    UNSHOWN,
    Criterion,
    as_entry,
)
from peft_unlearn.report.evidence import Evidence
from peft_unlearn.report.known_rows import known_rows, worst_rows
from peft_unlearn.report.questions import attacked, beyond, collapsed, inside, left, membership, reworded, short
from peft_unlearn.report.thresholds import THRESHOLDS

# Of several words the worst for the user: what is still said outweighs what comes back when asked otherwise, this outweighs what was broken, and
# what inner layers know outweighs nothing else, for nobody is told it.
INSIDE = "logit_lens"
ORDER = (COLLAPSED, NOT_FORGOTTEN, SUPPRESSED, OVER_FORGOTTEN)
SAMPLES = ("loss", "exact_memorization", "extraction_strength", "rouge_l")  # what the three-sample test compares
GUESSED = 0.5  # of the answers' probability, and the never-seen model knows the rows


def judge(report: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict on the "after" view of `report`, as docs/reference/report-json.md has it.

    Returns:
        {"word", "reasons", "next", "criteria", "reference", "three_samples", "training", "worst_rows", "thresholds"}: the reasons begin with the
        criteria that decided; of FORGOTTEN AS TESTED they are all that passed.
    """
    evidence = Evidence(report)
    said = advice.training(report["run"])
    if not evidence.get("forget", "after"):
        return _verdict(None, ["There are no numbers of the forget set after unlearning."], evidence, said)
    if knowledge.is_asked(report, evidence):
        word, reasons, found = knowledge.answer(evidence)
        return _verdict(word, reasons, evidence, said, found)
    samples = _three_samples(evidence)
    found = [*_criteria(evidence), *_nearer(samples)]
    word, reasons = _word(evidence, found)
    reasons = [*reasons, *said, *_notes(evidence, found)]
    steps = advice.following(word, found, report["run"], evidence.kind)
    return _verdict(word, reasons, evidence, said, found, steps, samples)


def _criteria(evidence: Evidence) -> list[Criterion]:
    past = list(beyond(evidence))
    flat = any(criterion.name == "entropy" and criterion.state == FAILED for criterion in past)
    traces = [] if flat else list(short(evidence))
    return [
        *known_rows(evidence),
        *left(evidence),
        *traces,
        *reworded(evidence),
        *attacked(evidence),
        *membership(evidence, flat),
        *past,
        *inside(evidence),
        *collapsed(evidence),
    ]


def _word(evidence: Evidence, found: Sequence[Criterion]) -> tuple[str | None, list[str]]:
    """The word, and what decided it."""
    failed = sorted((criterion for criterion in found if criterion.state == FAILED), key=_rank)
    texts = [criterion.text for criterion in failed]
    open_ = [f"Not shown: {criterion.text}" for criterion in found if criterion.state == NOT_SHOWN]
    if failed and failed[0].word == COLLAPSED:
        return COLLAPSED, [*texts, *open_]
    if nothing := _nothing_to_judge(evidence, found):
        return None, [nothing, *texts, *open_]
    insane = [criterion.text for criterion in found if criterion.name == "attack_sanity" and criterion.state == FAILED]
    if failed and insane and failed[0].word != NOT_FORGOTTEN:
        return None, [*insane, *texts, *open_]
    if failed:
        return failed[0].word, [*texts, *open_]
    if open_ or evidence.kind is None:
        return UNSHOWN, open_ or [f"Not shown: {evidence.reference}."]
    return FORGOTTEN, [criterion.text for criterion in found if criterion.state == PASSED]


def _rank(criterion: Criterion) -> tuple[int, int, float]:
    """Worst word first; of one word the rows before the means unless nearly all are known, then what is furthest past its threshold."""
    words = len(ORDER) if criterion.name == INSIDE else ORDER.index(criterion.word)
    tail = criterion.name in ("known_rows", "recited_rows", "recited_elsewhere", "secrets")
    trace = criterion.name in ("loss_short", "three_samples")
    size = abs(criterion.value or 0.0) if criterion.word == NOT_FORGOTTEN else criterion.size  # of shares that are left the largest
    everywhere = tail and criterion.value is not None and criterion.value >= 0.9
    return words, 3 if trace else 2 if everywhere else 0 if tail else 1, -round(size, 2)


def _nothing_to_judge(evidence: Evidence, found: Sequence[Criterion]) -> str | None:
    """Why no word would be true; None where one would."""
    if not evidence.get("forget", "before") and evidence.kind is None:
        return "There is nothing to compare with: neither the model before unlearning nor one that never saw the forget set."
    gaps = {metric: gap for metric in ("extraction_strength", "probability") if (gap := evidence.gap(metric)) is not None}
    limit = THRESHOLDS["to_forget"]
    if gaps and max(gaps.values()) < limit.limit:
        never = evidence.mean("forget", "never_seen", "probability")
        if never is not None and never > GUESSED:
            return f"The never-seen model knows the rows itself (probability {never:.3f}): name one that never saw them."
        said = " and ".join(f"{metric.replace('_', ' ')} before is {gap:.3f}" for metric, gap in gaps.items())
        return f"There was nothing to forget: {said} above {evidence.reference} (at least {limit.limit})."
    if not any(criterion.word == NOT_FORGOTTEN for criterion in found):
        return "Neither extraction strength nor probability of the forget set says what is left."
    return None


def _notes(evidence: Evidence, found: Sequence[Criterion]) -> list[str]:
    """What the verdict rests on, and which words nothing was measured for."""
    why = {
        COLLAPSED: "Not checked, collapse: there is no retain set with numbers before (or of the never-seen model) and after.",
        SUPPRESSED: "Not checked, suppression: no other wordings, samples or logit lens, with the never-seen model's beside them.",
        OVER_FORGOTTEN: "Not checked, over-forgetting: there is no never-seen model to compare with.",
    }
    said = [text for word, text in why.items() if all(criterion.word != word for criterion in found)]
    if evidence.attacks is None:
        said.append("Not attacked: what precision, scale, prompts and samples bring back is for `peft-unlearn audit` to try.")
    for name, attack in (evidence.attacks or {}).items():
        reported = attack["findings"] and all(finding["limit"] is None for finding in attack["findings"])
        if attack["passed"] is None and not reported and not attack["findings"]:
            said.append(f"Not told, the attack {name}: {attack['reason']}.")
        said += [f"Not told, {name}, {f['text']}" for f in attack["findings"] if f["threshold"] is not None and f["mean"] is None]
    return [*said, *evidence.notes()]


def _nearer(samples: Mapping[str, Any] | None) -> Iterator[Criterion]:
    """The three-sample test as a criterion, where it has a p-value."""
    if samples is not None and samples["p"] is not None:
        state = {"before": FAILED, "never_seen": PASSED, None: NOT_SHOWN}[samples["nearer_to"]]
        question = "Is the model nearer to one that never saw the rows, or to itself before?"
        left = 1 - samples["share"]
        yield Criterion(
            "three_samples", NOT_FORGOTTEN, question, state, samples["text"], left, None, 0.5, 0.0, samples["n"], samples["groups"]
        )


def _three_samples(evidence: Evidence) -> dict[str, Any] | None:
    """Whether the forget rows are nearer to the never-seen model's or to those before; None without three views of the same rows."""
    views = ("before", "after", "never_seen")
    metrics = [metric for metric in SAMPLES if all(evidence.rows("forget", view, metric) for view in views)]
    if not metrics:
        return None
    columns = {view: [evidence.rows("forget", view, metric) or [] for metric in metrics] for view in views}
    kept = [i for i in range(len(columns["after"][0])) if all(column[i] is not None for of in columns.values() for column in of)]
    if len(kept) < 2:
        return None
    before, after, never = (np.array([[column[i] for column in columns[view]] for i in kept], np.float64) for view in views)
    groups = evidence.groups.get("forget")
    return {**three_samples(before, after, never, None if groups is None else [groups[i] for i in kept]), "metrics": metrics}


def _verdict(
    word: str | None,
    reasons: Sequence[str],
    evidence: Evidence,
    training: Sequence[str],
    found: Sequence[Criterion] = (),
    following: Sequence[str] = (),
    samples: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "word": word,
        "reasons": list(reasons),
        "next": list(following),
        "criteria": [as_entry(criterion) for criterion in found],
        "reference": {"kind": evidence.kind, "text": evidence.said()},
        "three_samples": samples,
        "training": list(training),
        "worst_rows": worst_rows(evidence),
        "thresholds": {name: threshold.limit for name, threshold in THRESHOLDS.items()},
    }
