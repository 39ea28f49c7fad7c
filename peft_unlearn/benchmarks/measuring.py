"""What every benchmark asks of a model, by the definitions of this package or by OpenUnlearning's.

A benchmark has sets, each with its rows. `measure` gives the metrics of one set under one view of the model; the other functions add what
compares sets, or views, as results of a set as a whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.benchmarks import openunlearning as peer
from peft_unlearn.data.variants import Probe
from peft_unlearn.metrics import forget_quality as quality
from peft_unlearn.metrics import membership as members
from peft_unlearn.metrics import model_utility as utility
from peft_unlearn.metrics import openunlearning
from peft_unlearn.metrics.normalized_probability import normalized_probability
from peft_unlearn.metrics.priv_leak import priv_leak
from peft_unlearn.metrics.results import Evaluation, Result, not_computed, summarize
from peft_unlearn.metrics.statistics import mean_estimate, total
from peft_unlearn.metrics.suite import evaluate, sampled
from peft_unlearn.metrics.truth_ratio_score import truth_ratio_score

DEFINITIONS = ("peft-unlearn", "openunlearning")

Sets = dict[str, Evaluation]
Views = Mapping[str, Sets]  # "before", "after", "never_seen" -> sets


@dataclass(frozen=True)
class How:
    """How a benchmark is measured: whose definitions, rows in a batch, and for the leak of forget rows the answers drawn (0: none)."""

    definitions: str = DEFINITIONS[0]
    batch_size: int = 16
    samples: int = 0

    @property
    def as_openunlearning(self) -> bool:
        return self.definitions == "openunlearning"


class Benchmark(Protocol):
    """Sets that were read, checked and tokenized."""

    probes: dict[str, Probe]

    def evaluate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, how: How, label: str) -> Sets:
        """Every set under the active adapters."""

    def compare(self, views: Views, how: How) -> None:
        """Add what needs several sets, or the never-seen model."""


class Named(Benchmark, Protocol):
    """One that is known by name, and not tokenized yet."""

    def prepare(self, tokenizer: PreTrainedTokenizerBase, max_length: int, template: Mapping[str, Any]) -> None:
        """Tokenize what is measured, before a model is loaded."""


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    probe: Probe,
    how: How,
    *,
    label: str,
    forget: bool,
    generate: bool = True,
    shared: Mapping[str, Any] | None = None,
) -> Evaluation:
    """One set under the active adapters. Forget rows are attacked as well: logit lens, and sampled answers where `how` says so.

    `truth_ratio` is the ratio itself; `truth_ratio_score` is what a row adds to the aggregate, 1 at its best. `shared` is that of `suite.evaluate`.
    """
    if how.as_openunlearning:
        return peer.measured(model, tokenizer, probe, how.batch_size, label=label, forget=forget, generate=generate)
    found = evaluate(
        model,
        tokenizer,
        probe.rows,
        variants=probe.variants,
        shared=shared,
        batch_size=how.batch_size,
        generate=generate,
        lens=forget,
        label=label,
    )
    if "truth_ratio" in found:
        ratios = found["truth_ratio"]["rows"]
        found["truth_ratio_score"] = summarize([truth_ratio_score(ratio, forget) for ratio in ratios])
        if "paraphrased_answer" not in probe.variants:
            counts = [len(wrong) for wrong in probe.variants["perturbed_answer"]]
            found["normalized_probability"] = summarize(
                [normalized_probability(ratio, count) for ratio, count in zip(ratios, counts, strict=True)]
            )
    if forget and how.samples:
        ks = [k for k in (1, 4, 16, 64) if k < how.samples] + [how.samples]
        found.update(sampled(model, tokenizer, probe.rows, ks, batch_size=how.batch_size, progress=f"{label}: sampling"))
    return found


def compare_membership(forget: Evaluation, holdout: Evaluation, never_seen: Evaluation | None, how: How) -> None:
    """Add the AUCs of `forget` against `holdout`, and PrivLeak: how far Min-K's is from that of `never_seen`, whose AUCs are there already.

    Without a never-seen model its AUC is taken as .5, as OpenUnlearning does.
    """
    if how.as_openunlearning:  # its scores all grow with the loss
        forget_like, holdout_like = (
            Evaluation({name: [_signed(value, name) for value in of_set[name]["rows"]] for name in members.SIGNS}, [])
            for of_set in (forget, holdout)
        )
        forget.update(members.membership(forget_like, holdout_like))
    else:
        forget.update(members.membership(forget, holdout))
    found, other = forget["min_k_auc"], None if never_seen is None else never_seen["min_k_auc"]
    lost = next((result["reason"] for result in (found, other) if result is not None and "reason" in result), None)
    if lost:
        forget["priv_leak"] = not_computed(lost)
        return
    formula = openunlearning.priv_leak if how.as_openunlearning else priv_leak
    aucs = [found["mean"], *found["interval"]]
    leaks = [formula(auc) if other is None else formula(auc, other["mean"]) for auc in aucs]
    if not np.isfinite(leaks).all():
        forget["priv_leak"] = not_computed("every forget row of the never-seen model looks like a member, and the formula divides by zero")
        return
    # falls as the AUC grows; the never-seen model's own uncertainty is not in the interval
    forget["priv_leak"] = {"mean": leaks[0], "n": found["n"], "rows": [], "interval": sorted(leaks[1:])}


def forget_quality(ratios: Sequence[float | None], never_seen: Sequence[float | None] | None) -> Result:
    """TOFU's p-value for the truth ratios of forget rows beside those of the never-seen model (None: there is none)."""
    if never_seen is None:
        return not_computed("it needs the truth ratios of a model that never saw the forget set")
    counts = [sum(ratio is not None for ratio in side) for side in (ratios, never_seen)]
    if min(counts) < members.FEWEST:
        return not_computed(
            f"{counts[0]} rows, and {counts[1]} of the never-seen model, have a truth ratio, and each side needs {members.FEWEST}"
        )
    value = quality.forget_quality(ratios, never_seen)
    if np.isnan(value):
        return not_computed("some truth ratios are not finite")
    return {"mean": value, "n": sum(counts), "rows": []}


def model_utility(parts: Sequence[Sequence[float | None]]) -> Result:
    """TOFU's harmonic mean of the means of nine metrics, from the rows of each; the interval takes the nine as independent."""
    rows = [np.array([value for value in part if value is not None], np.float64) for part in parts]
    if not all(len(part) and np.isfinite(part).all() for part in rows):
        return not_computed("one of the nine metrics has no rows, or numbers that are not finite")
    estimates = [found for part in rows if (found := mean_estimate(part, bounds=(0, 1)))]
    value = utility.model_utility([part.mean for part in estimates])
    # a harmonic mean h of k means m moves with each by h^2 / (k m^2), and is the sum of the means times these
    moves = [(value**2 / (len(rows) * part.mean**2), part) for part in estimates if part.mean]
    sides = total(*moves).interval if value else None
    result: Result = {"mean": value, "n": sum(map(len, rows)), "rows": []}
    if sides:
        result["interval"] = sides
    return result


def _signed(value: float | None, name: str) -> float | None:
    """A score that grows with the loss, as one of `members.SIGNS`."""
    return None if value is None else -members.SIGNS[name] * value
