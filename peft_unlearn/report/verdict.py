"""One word for a run, from the numbers of its report alone: COLLAPSED, NOT FORGOTTEN, SUPPRESSED, OVER-FORGOTTEN or FORGOTTEN AS TESTED.

The words are tried in this order and the first that holds is given. A finding counts where its number is past the threshold and the
95 % interval of the change is on that side of zero: what the rows cannot tell from zero is named as a reason, and decides
nothing. The word is None where no word would be true: nothing was there to forget, or too few rows tell what is left from noise.
`thresholds.py` gives the reason for each threshold.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from peft_unlearn.metrics.statistics import mean_estimate, total
from peft_unlearn.report.thresholds import THRESHOLDS

COLLAPSED, NOT_FORGOTTEN, SUPPRESSED, OVER_FORGOTTEN = "COLLAPSED", "NOT FORGOTTEN", "SUPPRESSED", "OVER-FORGOTTEN"
FORGOTTEN = "FORGOTTEN AS TESTED"
NEVER_SEEN = "the never-seen model"


@dataclass(frozen=True)
class Finding:
    """What one check says: the word it speaks for, whether its threshold is crossed, and whether the rows tell that from noise."""

    word: str
    crossed: bool
    certain: bool
    text: str


def judge(report: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict on the "after" view of `report` (its "results", "differences" and "never_seen"), as docs/reference/report-json.md has it.

    What the never-seen model shows is taken from the view "never_seen"; where there is none, from the "holdout" set before unlearning; where
    there is neither, extraction strength is taken as 0 there, and what needs the other numbers is named as not checked.

    Returns:
        {"word", "reasons", "thresholds"}: the findings that decided come first, then what could not be told or not be checked; of FORGOTTEN
        AS TESTED every check that was passed.
    """
    numbers = Numbers(report)
    if numbers.get("forget", "after") == {}:
        return _verdict(None, ["There are no numbers of the forget set after unlearning."])
    findings = [*_left(numbers), *_brought_back(numbers), *_beyond(numbers), *_collapsed(numbers)]
    unchecked = _unchecked(numbers, findings)
    unsure = [f"Not told from noise: {f.text}" for f in findings if f.crossed and not f.certain]

    def decided(word: str) -> list[str]:
        return [f.text for f in findings if f.word == word and f.crossed and f.certain]

    if decided(COLLAPSED):
        return _verdict(COLLAPSED, [*decided(COLLAPSED), *unchecked])
    gap = numbers.gap("extraction_strength")
    if gap is not None and gap < THRESHOLDS["to_forget"].limit:
        text = f"There was nothing to forget: extraction strength before is {gap:.3f} above {numbers.reference}"
        return _verdict(None, [f"{text} (at least {THRESHOLDS['to_forget']}).", *unchecked])
    if not numbers.known and not numbers.get("forget", "before"):
        return _verdict(
            None, ["There is nothing to compare with: neither the model before unlearning nor one that never saw the forget set."]
        )
    if not any(f.word == NOT_FORGOTTEN for f in findings):
        return _verdict(None, ["Neither extraction strength nor probability of the forget set says what is left.", *unchecked])
    if decided(NOT_FORGOTTEN):
        return _verdict(NOT_FORGOTTEN, [*decided(NOT_FORGOTTEN), *unsure, *unchecked])
    if any(f.word == NOT_FORGOTTEN and f.crossed for f in findings):
        return _verdict(None, ["Too few rows: what is left cannot be told from noise.", *unsure, *unchecked])
    insane = [f.text for f in numbers.attacked("sanity") if f.crossed]
    if insane:
        return _verdict(None, [*insane, *unsure, *unchecked])
    for word in (SUPPRESSED, OVER_FORGOTTEN):
        if decided(word):
            return _verdict(word, [*decided(word), *unsure, *unchecked])
    return _verdict(FORGOTTEN, [*(f.text for f in findings if not f.crossed), *unsure, *unchecked])


class Numbers:
    """The entries of a report, and what stands for a model that never saw the forget set."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.results, self.differences, self.attacks = report["results"], report["differences"], report.get("attacks")
        self.source = ("forget", "never_seen") if self.get("forget", "never_seen") else ("holdout", "before")
        self.known = bool(self.get(*self.source))
        estimated = report["never_seen"]["kind"] == "estimate" and self.source[1] == "never_seen"
        self.reference = "the holdout set" if self.source[0] == "holdout" else "the never-seen estimate" if estimated else NEVER_SEEN
        if not self.known:
            self.reference = "0 (no never-seen model)"

    def attacked(self, *names: str) -> Iterator[Finding]:
        """What the audit's attacks found, of these names or of all."""
        for name, attack in (self.attacks or {}).items():
            for found in attack["findings"] if name in names or not names else ():
                if found["limit"] is not None:
                    yield Finding(SUPPRESSED, found["passed"] is not True, found["passed"] is not None, f"{name}, {found['text']}")

    def get(self, name: str, view: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.results.get(name, {}).get(view, {})
        return found

    def mean(self, name: str, view: str, metric: str) -> float | None:
        mean: float | None = self.get(name, view).get(metric, {}).get("mean")
        return mean

    def never_seen(self, metric: str) -> float | None:
        """What a model that never saw the forget set shows of it; 0 for extraction strength where nothing is known."""
        if self.known:
            return self.mean(*self.source, metric)
        return 0.0 if metric in ("extraction_strength", "worst_of_k") else None

    def gap(self, metric: str) -> float | None:
        """before - never seen: how much there was to forget."""
        before, never = self.mean("forget", "before", metric), self.never_seen(metric)
        return None if before is None or never is None else before - never

    def change(self, name: str, metric: str, view: str) -> list[float] | None:
        """Interval of after - `view`, row by row."""
        interval: list[float] | None = self.differences.get(name, {}).get(metric, {}).get(f"after - {view}", {}).get("interval")
        return interval

    def excess(self, metric: str) -> list[float] | None:
        """Interval of after - never seen on the forget set: paired; of two samples where other rows stand for it."""
        if self.known and self.source[1] == "never_seen":
            return self.change("forget", metric, "never_seen")
        after = self.get("forget", "after")[metric]
        if not self.known:
            interval: list[float] | None = after["interval"]
            return interval
        one, other = (mean_estimate(entry["rows"]) for entry in (after, self.get(*self.source)[metric]))
        return total((1, one), (-1, other)).interval if one and other else None


def _collapsed(numbers: Numbers) -> Iterator[Finding]:
    """Retain utility lost, answers degenerate, or numbers that are not finite: against before, or the never-seen model where there is no before."""
    for name in ("forget", "retain"):
        for metric in ("loss", "probability"):
            entry = numbers.get(name, "after").get(metric)
            if entry and entry["mean"] is None and entry["n"]:
                yield Finding(COLLAPSED, True, True, f"{_set(metric, name)}: {entry['reason']}.")
    view, said = ("before", "before") if numbers.get("retain", "before") else ("never_seen", f"for {NEVER_SEEN}")
    for metric in ("rouge_l", "probability"):
        after, start = numbers.mean("retain", "after", metric), numbers.mean("retain", view, metric)
        if after is not None and start:
            yield _share_kept(_set(metric, "retain"), after, start, said, numbers.change("retain", metric, view))
    for name, views in numbers.results.items():
        utility = [numbers.mean(name, at, "model_utility") for at in ("after", "before" if "before" in views else "never_seen")]
        if utility[0] is not None and utility[1]:
            yield _share_kept("model utility", utility[0], utility[1], "before" if "before" in views else f"for {NEVER_SEEN}", None)
    after, start = numbers.mean("retain", "after", "degenerate"), numbers.mean("retain", view, "degenerate")
    if after is not None and start is not None:
        yield _degenerate(COLLAPSED, "retain", after, start, said, numbers.change("retain", "degenerate", view))


def _share_kept(label: str, after: float, start: float, said: str, change: list[float] | None) -> Finding:
    limit = THRESHOLDS["kept"].limit
    text = f"{label}: {after:.3f} after, {start:.3f} {said}; {after / start:.0%} is kept (at least {limit:.0%})."
    return Finding(COLLAPSED, after < limit * start, change is None or change[1] < 0, text)


def _degenerate(word: str, name: str, after: float, start: float, said: str, change: list[float] | None) -> Finding:
    limit = THRESHOLDS["degenerate"].limit
    text = f"Empty or repetitive answers, {name} set: {after:.0%} after, {start:.0%} {said} (at most {limit:.0%} more)."
    return Finding(word, after - start > limit, change is not None and change[0] > 0, text)


def _left(numbers: Numbers) -> Iterator[Finding]:
    """What is left of what was to be forgotten: (after - never seen) / (before - never seen); of 1 where there is no before."""
    for metric in ("extraction_strength", "probability"):
        if (share := _share(numbers, metric)) is not None:
            yield _share_left(NOT_FORGOTTEN, numbers, metric, share, THRESHOLDS["left"].limit)
    if (share := _share(numbers, "worst_of_k")) is not None and share > THRESHOLDS["left_worst_of_k"].limit:
        yield _share_left(NOT_FORGOTTEN, numbers, "worst_of_k", share, THRESHOLDS["left_worst_of_k"].limit)


def _brought_back(numbers: Numbers) -> Iterator[Finding]:
    """What attacks bring back that the never-seen model does not show: rephrased questions, samples, inner layers, membership."""
    if (share := _share(numbers, "worst_of_k")) is not None:
        yield _share_left(SUPPRESSED, numbers, "worst_of_k", share, THRESHOLDS["brought_back"].limit)
    leaks = [metric for metric in numbers.get("forget", "after") if metric.startswith("leak_at_")]
    largest = sorted(leaks, key=lambda metric: int(metric.removeprefix("leak_at_")))[-1:]
    for metric, key in (*((leak, "leak") for leak in largest), ("logit_lens", "lens")):
        after, never = numbers.mean("forget", "after", metric), numbers.never_seen(metric)
        if after is not None and never is not None:
            excess = numbers.excess(metric)
            text = f"{_set(metric)}: {after:.3f} after, {never:.3f} for {numbers.reference} (at most {THRESHOLDS[key].limit} more)."
            yield Finding(SUPPRESSED, after - never > THRESHOLDS[key].limit, excess is not None and excess[0] > 0, text)
    yield from _membership(numbers, SUPPRESSED, 1)
    yield from numbers.attacked()


def _beyond(numbers: Numbers) -> Iterator[Finding]:
    """Past the never-seen model: less likely than text that no model saw, answers that break down, or rows that stand out by being unlikely."""
    after, never = numbers.mean("forget", "after", "loss"), numbers.never_seen("loss")
    if after is not None and never is not None:
        allowed, excess = max(THRESHOLDS["beyond"].limit * never, THRESHOLDS["beyond_nats"].limit), numbers.excess("loss")
        text = f"{_set('loss')}: {after:.3f} nats a token after, {never:.3f} for {numbers.reference} (at most {allowed:.3f} more)."
        yield Finding(OVER_FORGOTTEN, after - never > allowed, excess is not None and excess[0] > 0, text)
    after, never = numbers.mean("forget", "after", "degenerate"), numbers.never_seen("degenerate")
    if after is not None and never is not None:
        yield _degenerate(OVER_FORGOTTEN, "forget", after, never, f"for {numbers.reference}", numbers.excess("degenerate"))
    yield from _membership(numbers, OVER_FORGOTTEN, -1)


def _membership(numbers: Numbers, word: str, sign: int) -> Iterator[Finding]:
    """The Min-K AUC of forget against holdout rows, above (+1) or below (-1) the never-seen model's."""
    after, never = numbers.get("forget", "after").get("min_k_auc"), numbers.mean("forget", "never_seen", "min_k_auc")
    if after and after["interval"] and never is not None:
        low, high = after["interval"]
        certain = low > never if sign > 0 else high < never
        limit = THRESHOLDS["membership"].limit
        side = "above" if sign > 0 else "below"
        text = f"{_set('min_k_auc')}: {after['mean']:.3f} after, {never:.3f} for {numbers.reference} (at most {limit} {side})."
        yield Finding(word, sign * (after["mean"] - never) > limit, certain, text)


def _share(numbers: Numbers, metric: str) -> float | None:
    """Share of `metric` that is left on the forget set; None where it cannot be told, or there was too little to forget."""
    after, never, before = numbers.mean("forget", "after", metric), numbers.never_seen(metric), numbers.mean("forget", "before", metric)
    if after is None or never is None:
        return None
    gap = 1.0 if before is None else before - never
    return (after - never) / gap if gap >= THRESHOLDS["to_forget"].limit else None


def _share_left(word: str, numbers: Numbers, metric: str, share: float, limit: float) -> Finding:
    after, before, excess = numbers.mean("forget", "after", metric), numbers.mean("forget", "before", metric), numbers.excess(metric)
    start = "" if before is None else f"{before:.3f} before, "
    whole = "" if before is not None else " (of 1, for want of before)"
    text = f"{_set(metric)}: {start}{after:.3f} after, {numbers.never_seen(metric):.3f} for {numbers.reference}"
    text += f"; {max(share, 0.0):.0%} is left{whole} (at most {limit:.0%})."
    return Finding(word, share > limit and not math.isclose(share, limit), excess is not None and excess[0] > 0, text)


def _unchecked(numbers: Numbers, findings: list[Finding]) -> list[str]:
    """Which words nothing was measured for."""
    why = {
        COLLAPSED: "Not checked, collapse: there is no retain set with numbers before (or of the never-seen model) and after.",
        SUPPRESSED: "Not checked, suppression: no rephrased questions, samples or logit lens, with the never-seen model's beside them.",
        OVER_FORGOTTEN: "Not checked, over-forgetting: there is no never-seen model to compare with.",
    }
    said = [text for word, text in why.items() if all(finding.word != word for finding in findings)]
    if numbers.attacks is None:
        said.append("Not attacked: what precision, scale, prompts and samples bring back is for `peft-unlearn audit` to try.")
    for name, attack in (numbers.attacks or {}).items():
        reported = attack["findings"] and all(finding["limit"] is None for finding in attack["findings"])
        if attack["passed"] is None and not reported:
            said.append(f"Not told, the attack {name}: {attack['reason']}.")
        said += [f"Not told, {name}, {f['text']}" for f in attack["findings"] if f["threshold"] is not None and f["mean"] is None]
    if not numbers.known:
        said.append("No never-seen model: its extraction strength is taken as 0, and probability is not judged.")
    elif numbers.source[0] == "holdout":
        said.append("No never-seen model: the holdout set before unlearning stands for it, on other rows.")
    elif numbers.reference != NEVER_SEEN:
        said.append("What stands for the never-seen model is an estimate, and no model that was trained without the forget set.")
    return said


def _set(metric: str, name: str = "forget") -> str:
    return f"{metric.replace('_', ' ')} of the {name} set"


def _verdict(word: str | None, reasons: list[str]) -> dict[str, Any]:
    return {"word": word, "reasons": reasons, "thresholds": {name: threshold.limit for name, threshold in THRESHOLDS.items()}}
