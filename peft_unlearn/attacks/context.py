"""What an attack sees, and what it shows: plain numbers, judged elsewhere."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.rows import Row
from peft_unlearn.data.variants import Probe
from peft_unlearn.metrics.results import Evaluation, Result
from peft_unlearn.metrics.suite import ASKED, evaluate
from peft_unlearn.report.thresholds import THRESHOLDS
from peft_unlearn.util.errors import UserError

# View -> set -> metric -> result: what was measured without an attack. A row that is not finite stays so.
Plain = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]

RECOVERY = ("probability", "exact_memorization", "extraction_strength", "worst_of_k")  # what an attack is to bring back, as in the verdict


class Skipped(Exception):
    """Why an attack is skipped here: no adapter, no holdout set. Its message ends a sentence, without a full stop."""


class _Shown(TypedDict):
    what: str
    metric: str
    mean: float | None
    n: int
    rows: list[float | None]


class Shown(_Shown, total=False):
    """One number under attack: which form of the attack, which metric, its mean and rows, in the order of the set, None for rows left out.

    `threshold` is a key of `report.thresholds.THRESHOLDS`, without one the number is only reported. Of a set as a whole there are no
    rows, and an `interval` instead, and that of its difference from the never-seen model where the attack knows it. A row that is not finite is
    None too, and makes the mean None.
    """

    threshold: str
    interval: list[float]
    excess: list[float]
    set: str  # whose rows they are, "forget" where it is not said
    lost: int  # rows that are not finite


@dataclass(frozen=True)
class Context:
    """One model under attack, with what the attacks need beside it.

    The never-seen model is attacked by the same code in a context of its own, so that what an attack makes of any model is not taken for knowledge.
    """

    model: PreTrainedModel | PeftModel  # the view under attack is active
    tokenizer: PreTrainedTokenizerBase
    probes: Mapping[str, Probe]  # "forget", and where they are there "retain", "holdout"
    plain: Plain
    view: str  # "after" or "never_seen"
    full: bool = False  # more settings of each attack
    batch_size: int = 16
    load_dense: Callable[[], PreTrainedModel] | None = None  # the 16/32-bit base of a quantized one
    start: str | None = None  # folder or Hub name of the adapter that training went on from
    others: Sequence[str] = ()  # folders of further forgetting adapters
    groups: Sequence[int] = ()  # of the forget rows, one id a row: those that belong together; () where each stands alone
    seed: int = 0

    @property
    def student(self) -> PeftModel | None:
        """The model with its forgetting adapter on; None of a whole model and of the never-seen model."""
        return self.model if self.view == "after" and isinstance(self.model, PeftModel) else None

    @property
    def adapted(self) -> PeftModel:
        """The same, for attacks on the adapter.

        Raises:
            Skipped: there is none.
        """
        if self.student is None:
            raise Skipped("the model is a whole one, without a forgetting adapter")
        return self.student

    def recall(self, model: Any = None, probe: Probe | None = None, batch_size: int | None = None) -> Evaluation:
        """`RECOVERY` of the forget set, worst-of-k where it has other wordings, under the view's model or another one."""
        probe = probe or self.probes["forget"]
        asked = {kind: groups for kind, groups in probe.variants.items() if kind in ASKED}
        causal = cast(PreTrainedModel, self.model if model is None else model)
        found = evaluate(
            causal, self.tokenizer, probe.rows, variants=asked, batch_size=batch_size or self.batch_size, generate=False, label="attacking"
        )
        return Evaluation({name: found[name]["rows"] for name in RECOVERY if name in found}, [])


def shown(what: str, metric: str, result: Result, *, threshold: str | None = None, of: str = "forget") -> Shown:
    """A result of a set as what an attack shows; what is not finite is None, and counted."""
    rows = [_finite(value) for value in result["rows"]]
    entry: Shown = {"what": what, "metric": metric, "mean": _finite(result["mean"]), "n": result["n"], "rows": rows}
    if lost := sum(value is not None and not math.isfinite(value) for value in result["rows"]):
        entry |= {"lost": lost, "mean": None}
    if of != "forget":
        entry["set"] = of
    if "interval" in result:
        entry["interval"] = list(result["interval"])
    if threshold is not None:
        if threshold not in THRESHOLDS or THRESHOLDS[threshold].kind == "verdict":
            known = ", ".join(name for name, found in THRESHOLDS.items() if found.kind != "verdict")
            raise UserError(f"{what}: an attack judges by {threshold!r}, and there is no such threshold; write one of {known}.")
        entry["threshold"] = threshold
    return entry


def number(what: str, metric: str, value: float, *, threshold: str | None = None) -> Shown:
    """A number of no rows: a share of modules, a count of steps."""
    return shown(what, metric, {"mean": value, "n": 1, "rows": []}, threshold=threshold)


def recalled(what: str, evaluation: Evaluation, *, threshold: str | None = None) -> list[Shown]:
    """Every metric of `Context.recall` as what an attack shows."""
    return [shown(what, metric, result, threshold=threshold) for metric, result in evaluation.items()]


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def plain_rows(entry: Mapping[str, Any]) -> list[float | None]:
    """Rows of a plain result. Where its mean was lost to some that are not finite, NaN stands for all without a value: reports have null for both."""
    lost = entry["mean"] is None and entry["n"]
    return [math.nan if value is None and lost else value for value in entry["rows"]]


def take(rows: Iterable[Row], kept: Sequence[int]) -> list[Row]:
    """Some of `rows`, by number."""
    found = list(rows)
    return [found[i] for i in kept]
