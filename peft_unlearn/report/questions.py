"""The questions that a verdict asks of the evidence, and what answers each: a criterion, or several."""

import math
from collections.abc import Iterator, Mapping

from peft_unlearn.metrics.membership import SIGNS
from peft_unlearn.metrics.statistics import Estimate
from peft_unlearn.report.criteria import (
    ALONE,
    COLLAPSED,
    FAILED,
    NO_REFERENCE,
    NOT_FORGOTTEN,
    NOT_SHOWN,
    OVER_FORGOTTEN,
    PASSED,
    SUPPRESSED,
    Criterion,
    criterion,
)
from peft_unlearn.report.evidence import SPOKEN, Evidence
from peft_unlearn.report.thresholds import THRESHOLDS

# Metric -> the threshold of what may be left, and the question that it answers.
LEFT = {
    "verbatim": ("left_written", "Does the model still write the answers word for word?"),
    "rouge_l": ("left_written", "Do its answers still say what was to be forgotten?"),
    "exact_memorization": ("left_written", "Token by token, would it still write the answers?"),
    "extraction_from_start": ("left_written", "How much of an answer does it write from the beginning on?"),
    "extraction_strength": ("left", "Given the first part of an answer, does it complete the rest?"),
    "probability": ("left", "Does it still find the answers likely?"),
    "recites_others": ("left_written", "Does it give the answers of other forgotten questions?"),
}
GUESSED = ("rouge_l", "exact_memorization", "reworded_memorization")  # much of these is guessed: without a reference they say nothing
PROVING = ("min_k", "loss")  # the membership attacks that a pass rests on; the others are noisier, and can only fail
REWORDED = {
    "reworded_probability": "Asked in other words, does it find the answers likely?",
    "reworded_memorization": "Asked in other words, would it write the answers?",
    "worst_of_k": "Does any wording of the question bring the answer back?",
}


def left(evidence: Evidence) -> Iterator[Criterion]:
    """What the model still says of what was to be forgotten, as a share of what it said before."""
    for metric, (key, question) in LEFT.items():
        if metric == "recites_others":
            yield from _excess(evidence, metric, NOT_FORGOTTEN, question, THRESHOLDS[key].limit)
        else:
            yield from _left(evidence, metric, NOT_FORGOTTEN, question, THRESHOLDS[key].limit)


def reworded(evidence: Evidence) -> Iterator[Criterion]:
    """The same of other wordings of the rows, and of the best of several samples."""
    leaks = sorted(
        (metric for metric in evidence.get("forget", "after") if metric.startswith("leak_at_")), key=lambda name: int(name.split("_")[-1])
    )
    asked = {**REWORDED, **dict.fromkeys(leaks[-1:], "Asked several times, does one answer say it?")}
    for metric, question in asked.items():
        yield from _left(evidence, metric, SUPPRESSED, question, THRESHOLDS["left_reworded"].limit)


def short(evidence: Evidence) -> Iterator[Criterion]:
    """Rows that are less unlikely than they would be: a loss short of the reference's."""
    before, expected, limit = evidence.mean("forget", "before", "loss"), evidence.expected("loss"), _allowed(evidence, "short")
    after = evidence.mean("forget", "after", "loss")
    if before is None or expected is None or after is None or expected - before < 2 * THRESHOLDS["beyond_nats"].limit:
        return
    estimate = evidence.loss(1 - limit, limit)
    if estimate is not None:
        way = expected - before
        negative = _negative(estimate)
        share = {"mean": limit + negative.mean / way, "low": limit + negative.low / way, "high": limit + negative.high / way}
        text = f"{_loss_text(evidence)}; {_share(share['mean'])} of the way is missing{_range(share['low'], share['high'])} (at most {limit:.0%})."
        question = "Are the rows as unlikely as for a model that never saw them?"
        yield criterion("loss_short", NOT_FORGOTTEN, question, negative, 0.0, text, share, limit, expected, way)


def beyond(evidence: Evidence) -> Iterator[Criterion]:
    """Past the reference: less likely, broken answers, flat predictions, or damage to unseen text of the same kind."""
    expected, share = evidence.expected("loss"), _allowed(evidence, "beyond")
    estimate = evidence.loss(1.0)
    if estimate is not None and expected is not None:
        limit = max(share * expected, THRESHOLDS["beyond_nats"].limit)
        text = f"{_loss_text(evidence)} (at most {limit:.3f} more)."
        question = "Are the rows less likely than for a model that never saw them?"
        yield criterion("loss_beyond", OVER_FORGOTTEN, question, estimate, limit, text, _numbers(estimate), limit, expected)
    for metric, question in (("degenerate", "Are its answers empty or loops?"), ("nonwords", "Are its answers made of words?")):
        yield from _excess(evidence, metric, OVER_FORGOTTEN, question, THRESHOLDS[metric].limit)
    expected = evidence.expected("entropy")
    if expected is not None and evidence.kind is not None:
        yield from _excess(evidence, "entropy", OVER_FORGOTTEN, "Are its predictions flat?", THRESHOLDS["flat"].limit, None)
    yield from _damage(evidence)


def _damage(evidence: Evidence) -> Iterator[Criterion]:
    """Whether text of the forget set's kind that was never taught became less likely."""
    before, after = evidence.rows("holdout", "before", "loss"), evidence.rows("holdout", "after", "loss")
    if before is None or after is None or not evidence.holdout:
        return
    start, now = evidence.mean("holdout", "before", "loss"), evidence.mean("holdout", "after", "loss")
    estimate = evidence.estimate("holdout", [None if a is None or b is None else a - b for a, b in zip(after, before, strict=True)])
    if estimate is None or start is None or now is None:
        return
    limit = max(_allowed(evidence, "beyond") * start, THRESHOLDS["beyond_nats"].limit)
    text = f"loss of the holdout set: {start:.3f} nats a token before, {now:.3f} after (at most {limit:.3f} more)."
    question = "Is text of this kind, which was not to be forgotten, as likely as before?"
    yield criterion("holdout_damage", OVER_FORGOTTEN, question, estimate, limit, text, _numbers(estimate), limit, start)


def membership(evidence: Evidence, flat: bool) -> Iterator[Criterion]:
    """Whether the forget rows can be told from holdout rows, on either side: failed by any attack, passed by Min-K and by the loss.

    Of flat predictions every row looks like a member: there only the lower side is asked.
    """
    limit = THRESHOLDS["membership"].limit
    found = {metric: estimate for metric in SIGNS if (estimate := evidence.membership(metric)) is not None}
    if not found:
        return
    for above in (False,) if flat else (True, False):
        sides = {metric: estimate if above else _negative(estimate) for metric, estimate in found.items()}
        telling = max(sides, key=lambda metric: sides[metric].low)
        least = max((metric for metric in sides if metric in PROVING), key=lambda metric: sides[metric].high, default=telling)
        yield _told_apart(evidence, telling if sides[telling].low > limit else least, sides, limit, above)


def _told_apart(evidence: Evidence, metric: str, sides: Mapping[str, Estimate], limit: float, above: bool) -> Criterion:
    estimate, paired = sides[metric], evidence.kind == "paired"
    after = evidence.mean("forget", "after", f"{metric}_auc")
    never = evidence.mean("forget", "never_seen", f"{metric}_auc") if paired else None
    beside = f"{evidence.reference}'s" if paired else ".5"
    text = f"{metric.replace('_', ' ')} AUC of forget against holdout rows: {'–' if after is None else format(after, '.3f')} after"
    text += "" if never is None else f", {never:.3f} for {evidence.reference}"
    text += f"; {estimate.mean:+.3f}{_range(estimate.low, estimate.high, '.3f')} {'above' if above else 'below'} {beside}"
    text += f" (at most {limit}{'' if paired else _by_chance(evidence, metric)})."
    question = "Do the rows still look like training data?" if above else "Do the rows stand out as pushed away?"
    name, word = ("membership_above", SUPPRESSED) if above else ("membership_below", OVER_FORGOTTEN)
    return criterion(name, word, question, estimate, limit, text, _numbers(estimate), limit, never)


def _by_chance(evidence: Evidence, metric: str) -> str:
    """What an untouched holdout shows by itself: the 95 % range of the AUC of rows that nothing tells apart (Mann and Whitney)."""
    n, m = (len(evidence.rows(name, "after", metric) or ()) for name in ("forget", "holdout"))
    return f"; two sets of one kind differ by {1.96 * math.sqrt((n + m + 1) / (12 * n * m)):.2f} by chance" if n and m else ""


def inside(evidence: Evidence) -> Iterator[Criterion]:
    """Whether inner layers know more than the reference's."""
    if evidence.kind == "paired":
        yield from _excess(evidence, "logit_lens", SUPPRESSED, "Do inner layers still know the answers?", THRESHOLDS["lens"].limit)


def collapsed(evidence: Evidence) -> Iterator[Criterion]:
    """Retain utility lost, answers degenerate, or numbers that are not finite: against before, or the never-seen model where there is no before."""
    question = "Did the model keep what it was to keep?"
    for name in ("forget", "retain", "holdout"):
        for metric in ("loss", "probability"):
            entry = evidence.get(name, "after").get(metric)
            if entry and entry["mean"] is None and entry["n"]:
                text = f"{metric} of the {name} set: {entry['reason']}."
                yield Criterion(f"finite_{name}_{metric}", COLLAPSED, "Are the model's numbers finite?", FAILED, text)
    view, said = ("before", "before") if evidence.get("retain", "before") else ("never_seen", "for the never-seen model")
    limit = THRESHOLDS["kept"].limit
    for metric in ("rouge_l", "probability"):
        rows = [evidence.rows("retain", at, metric) for at in ("after", view)]
        means = [evidence.mean("retain", at, metric) for at in ("after", view)]
        if rows[0] is None or rows[1] is None or means[0] is None or not means[1]:
            continue
        lost = [None if a is None or b is None else limit * b - a for a, b in zip(rows[0], rows[1], strict=True)]
        estimate = evidence.estimate("retain", lost, (-1.0, limit))
        if estimate is not None:
            share = f"{means[0] / means[1]:.0%} is kept (at least {limit:.0%})"
            text = f"{_label(metric)} of the retain set: {means[0]:.3f} after, {means[1]:.3f} {said}; {share}."
            kept = {
                key: limit - value / means[1]
                for key, value in zip(("mean", "high", "low"), (estimate.mean, estimate.low, estimate.high), strict=True)
            }
            yield criterion(f"kept_{metric}", COLLAPSED, question, estimate, 0.0, text, kept, limit, means[1])
    for name, views in evidence.results.items():
        at, said = ("before", "before") if "before" in views else ("never_seen", "for the never-seen model")
        now, start = evidence.mean(name, "after", "model_utility"), evidence.mean(name, at, "model_utility")
        if now is not None and start:
            text = f"model utility: {now:.3f} after, {start:.3f} {said}; {now / start:.0%} is kept (at least {limit:.0%})."
            yield Criterion("kept_utility", COLLAPSED, question, FAILED if now < limit * start else PASSED, text, now / start, None, limit)
    rows = [evidence.rows("retain", at, "degenerate") for at in ("after", view)]
    if rows[0] is not None and rows[1] is not None:
        limit = THRESHOLDS["degenerate"].limit
        more = [None if a is None or b is None else a - b for a, b in zip(rows[0], rows[1], strict=True)]
        estimate = evidence.estimate("retain", more, (-1.0, 1.0))
        if estimate is not None:
            means = [evidence.mean("retain", at, "degenerate") or 0.0 for at in ("after", view)]
            text = f"Empty or repetitive answers, retain set: {means[0]:.0%} after, {means[1]:.0%} {said} (at most {limit:.0%} more)."
            yield criterion("degenerate_retain", COLLAPSED, question, estimate, limit, text, _numbers(estimate), limit, means[1])


def attacked(evidence: Evidence) -> Iterator[Criterion]:
    """What the attacks of an audit found."""
    for name, attack in (evidence.attacks or {}).items():
        for found in attack["findings"]:
            if found["limit"] is None:
                continue
            state = {True: PASSED, False: FAILED, None: NOT_SHOWN}[found["passed"]]
            question = f"Is it brought back by this: {attack['title'][:1].lower()}{attack['title'][1:]}?"
            text = f"{name}, {found['text']}"
            yield Criterion(f"attack_{name}", SUPPRESSED, question, state, text, found["recovered"], None, found["limit"], n=found.get("n"))


def _left(evidence: Evidence, metric: str, word: str, question: str, limit: float) -> Iterator[Criterion]:
    """The share of `metric` that is left; nothing where too little of it was there."""
    gap, after, expected = evidence.gap(metric), evidence.mean("forget", "after", metric), evidence.expected(metric)
    if gap is None or after is None or expected is None or gap < THRESHOLDS["to_forget"].limit:
        return
    alone = ALONE / gap if word == SUPPRESSED else ALONE  # a kind of text may be guessed from its wording, so there half of a whole counts
    if evidence.kind is None and (metric in GUESSED or alone >= 1):
        return
    limit = max(limit, THRESHOLDS["least"].limit / gap) if evidence.kind else alone
    estimate = evidence.above(metric, limit)
    if estimate is None:
        return
    share = {
        key: limit + value / gap for key, value in zip(("mean", "low", "high"), (estimate.mean, estimate.low, estimate.high), strict=True)
    }
    before = evidence.mean("forget", "before", metric)
    start, whole = ("", " (of 1, for want of before)") if before is None else (f"{before:.3f} before, ", "")
    text = f"{_label(metric)} of the forget set: {start}{after:.3f} after, {expected:.3f} for {evidence.reference}; "
    text += f"{_share(share['mean'])} is left{whole}{_range(share['low'], share['high'])} (at most {limit:.0%})."
    found = criterion(metric, word, question, estimate, 0.0, text, share, limit, expected, gap)
    if evidence.kind is None and found.state == PASSED:
        found = Criterion(**{**vars(found), "state": NOT_SHOWN, "text": f"{text[:-1]}, and {NO_REFERENCE}.", "rows_needed": None})
    yield found


def _excess(
    evidence: Evidence, metric: str, word: str, question: str, limit: float, bounds: tuple[float, float] | None = (-1.0, 1.0)
) -> Iterator[Criterion]:
    """The number minus the reference's."""
    after, expected, estimate = evidence.mean("forget", "after", metric), evidence.expected(metric), evidence.above(metric, bounds=bounds)
    if after is None or expected is None or estimate is None or (evidence.kind is None and metric not in SPOKEN):
        return
    shown = f"{after:.3f} after, {expected:.3f} {'before' if evidence.kind is None else f'for {evidence.reference}'}"
    label = {"degenerate": "Empty or repetitive answers, forget set", "nonwords": "Words that do not exist, forget set"}.get(metric)
    more = f"{_range(estimate.low, estimate.high, '+.3f', ' more')} (at most {limit:g} more)"
    text = f"{label or _label(metric) + ' of the forget set'}: {shown}{more}."
    yield criterion(metric, word, question, estimate, limit, text, _numbers(estimate), limit, expected)


def _allowed(evidence: Evidence, name: str) -> float:
    """A limit of the loss: wider beside other rows, which differ by themselves, than row by row."""
    return THRESHOLDS[name if evidence.kind == "paired" else "loss_alone"].limit


def _negative(estimate: Estimate) -> Estimate:
    return estimate._replace(mean=-estimate.mean, low=-estimate.high, high=-estimate.low)


def _numbers(estimate: Estimate) -> dict[str, float]:
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}


def _loss_text(evidence: Evidence) -> str:
    after, expected = evidence.mean("forget", "after", "loss"), evidence.expected("loss")
    moved = "" if evidence.shift is None else f" (times {evidence.shift[0]:.2f}, as the holdout moved)"
    return f"loss of the forget set: {after:.3f} nats a token after, {expected:.3f} for {evidence.reference}{moved}"


def _label(metric: str) -> str:
    return metric.replace("_", " ")


def _share(value: float) -> str:
    return f"{max(value, 0.0):.0%}"


def _range(low: float, high: float, form: str = ".0%", after: str = "") -> str:
    """An interval in brackets with a space before it; nothing where it has no ends."""
    return f" [{low:{form}}, {high:{form}}]{after}" if math.isfinite(low) and math.isfinite(high) else ""
