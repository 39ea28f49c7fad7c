"""Does a fine-tune know these rows? What `evaluate` answers of a user's own adapter, which was trained to know and not to forget."""

from collections.abc import Mapping
from typing import Any

from peft_unlearn.report.criteria import FAILED, NOT_SHOWN, PASSED, UNSHOWN, Criterion
from peft_unlearn.report.evidence import Evidence
from peft_unlearn.report.known_rows import KNOWN as MEASURES
from peft_unlearn.report.known_rows import flags, is_known, is_recited
from peft_unlearn.report.thresholds import THRESHOLDS

KNOWN, PARTLY_KNOWN, NOT_KNOWN = "KNOWN", "PARTLY KNOWN", "NOT KNOWN"
MOST = 0.5  # of the rows


def is_asked(report: Mapping[str, Any], evidence: Evidence) -> bool:
    """Whether the report is of a fine-tune that knows no less of the rows than its base did."""
    if not report["run"].get("finetune"):
        return False
    counts = [sum(map(bool, flags(evidence, "forget", view, is_known))) for view in ("after", "before")]
    return counts[0] >= counts[1]


def answer(evidence: Evidence) -> tuple[str | None, list[str], list[Criterion]]:
    """The word, its reasons, and the criterion behind it: the share of rows that the fine-tune knows and its base does not."""
    after, base = (flags(evidence, "forget", view, is_known) for view in ("after", "before"))
    if not any(flag is not None for flag in after):
        return None, ["Neither extraction strength nor probability of the rows says what is known."], []
    more = [None if a is None else float(a) - float(bool(i < len(base) and base[i])) for i, a in enumerate(after)]
    estimate, limit = evidence.estimate("forget", more, (-1.0, 1.0)), THRESHOLDS["known_rows"].limit
    n, count, before = len(after), sum(map(bool, after)), sum(map(bool, base))
    text = f"{count} of {n} rows are known, {before} by the base without this adapter"
    if estimate is None:
        return None, [f"{text}."], []
    word = (
        KNOWN
        if estimate.low > MOST
        else PARTLY_KNOWN
        if estimate.low > 0
        else NOT_KNOWN
        if count == before or estimate.high <= limit
        else None
    )
    if estimate.high > limit and word == NOT_KNOWN:
        word = UNSHOWN
    recited = sum(map(bool, flags(evidence, "forget", "after", is_recited)))
    reasons = [f"{text}; {recited} come back word for word.", *_means(evidence)]
    state = FAILED if word in (KNOWN, PARTLY_KNOWN) else PASSED if word == NOT_KNOWN else NOT_SHOWN
    interval = (estimate.low, estimate.high) if estimate.n > 1 else None
    found = Criterion(
        "known_rows", word or UNSHOWN, "Does it know these rows?", state, reasons[0], estimate.mean, interval, limit, before / n, n
    )
    return word or UNSHOWN, reasons, [found]


def _means(evidence: Evidence) -> list[str]:
    said = []
    for metric in (*MEASURES, "rouge_l"):
        after, base = (evidence.mean("forget", view, metric) for view in ("after", "before"))
        if after is not None:
            said.append(f"{metric.replace('_', ' ')}: {after:.3f}" + ("." if base is None else f", {base:.3f} for its base."))
    return said
