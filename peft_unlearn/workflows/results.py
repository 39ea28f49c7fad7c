"""What each workflow gives back. A report is what report.json holds (docs/reference/report-json.md)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows.requests import EvaluateRequest

if TYPE_CHECKING:
    from peft_unlearn.benchmarks import Sets
    from peft_unlearn.merging.combining import Energy
    from peft_unlearn.merging.survival import Survival
    from peft_unlearn.planning import Change, Memory


@dataclass(frozen=True)
class PushResult:
    address: str  # of the repository
    private: bool


@dataclass(frozen=True)
class TrainResult:
    """A run. Of several processes only the first one has a report and views."""

    output: Path
    report: dict[str, Any] = field(default_factory=dict)
    views: "Mapping[str, Sets]" = field(default_factory=dict)  # "before", "after", "never_seen" -> set -> evaluation
    pushed: PushResult | None = None


class Unfinished(UserError):
    """A run that wrote its folder and then failed: it diverged, or the Hub refused the upload. `result` is what it wrote."""

    def __init__(self, reason: UserError, result: TrainResult) -> None:
        super().__init__(str(reason))
        self.result = result


@dataclass(frozen=True)
class EvaluateResult:
    """An evaluation or an audit."""

    report: dict[str, Any]
    texts: dict[str, Any] | None = None  # "question", and "answers" by view, of the forget set; where the request asks for them
    output: Path | None = None  # the report as a file
    page: Path | None = None  # and as a page


@dataclass(frozen=True)
class AskResult:
    """Models that are loaded and can be asked. `page` is the page of the run's report, where there is one."""

    name: str
    views: tuple[str, ...]  # "before", "after", "never_seen", as far as there are such models
    answers: Callable[[str, bool, int], dict[str, str]]  # of (text, whether it is a question, new tokens at most), by view
    page: Path | None = None


@dataclass(frozen=True)
class MergeResult:
    """A merged folder, and what survived of the change of each weight that the adapter touches (a weight goes by its module's name)."""

    folder: Path
    survival: "Mapping[str, Survival]"
    report: dict[str, Any] | None = None  # of the merged folder, beside the numbers of its adapter
    not_evaluated: str | None = None  # why there is no report where one was asked for
    evaluation: EvaluateRequest | None = None  # what would give that report; None where the adapter's recipe names no sets


@dataclass(frozen=True)
class CombineResult:
    """One adapter of several; `energy` is that of each module's change, and how much of it was kept."""

    folder: Path
    rank: int
    energy: "Mapping[str, Energy]"


@dataclass(frozen=True)
class RetrainCost:
    """Training again without the rows to forget, from timed steps; and what forgetting took, where it was done."""

    rows: int
    left_out: int  # rows of the training set that are to be forgotten
    tokens: int  # of an epoch
    steps: int  # of all epochs
    seconds_a_step: float
    forgetting: tuple[int, float] | None  # steps, seconds

    @property
    def seconds(self) -> float:
        return self.steps * self.seconds_a_step


@dataclass(frozen=True)
class ScoreResult:
    """What each request's rows score now: request -> view -> metric -> mean, and the divergence on the retain set of the last one."""

    scores: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    retain_kl: float | None
    skipped: tuple[str, ...]  # requests whose rows are not there any more


@dataclass(frozen=True)
class ExportResult:
    folder: Path
    files: tuple[str, ...]
    gguf: dict[str, Any] | None = None  # what gguf.json holds, of GGUF files
    not_evaluated: str | None = None  # why those were not asked, where they were to be


@dataclass(frozen=True)
class PlanResult:
    values: dict[str, Any]  # the recipe's keys
    memory: "Memory"
    changes: "Sequence[Change]"  # what would save memory, where a card is too small
    times: "Times | None" = None  # where they were asked for


@dataclass(frozen=True)
class Times:
    """Seconds of a run's parts on this machine.

    Attributes:
        prepare: until its first step, evaluations aside: the base is loaded, targets and other answers are found.
        evaluate: one evaluation of all its sets; there are so many `evaluations`.
        step, check: one of each; a check comes `every` so many steps, 0 where there are none.
        padding: share of a step's tokens that is padding, no seconds.
        steps: that the run takes; None where it ends by its targets.
    """

    prepare: float
    evaluate: float
    evaluations: int
    step: float
    padding: float
    check: float
    every: int
    steps: int | None

    def run(self, steps: int) -> float:
        """Seconds of a run of so many steps."""
        checks = steps // self.every if self.every else 0
        return self.prepare + self.evaluations * self.evaluate + steps * self.step + checks * self.check


@dataclass(frozen=True)
class DemoResult:
    """Runs by method; what each view shows of each set, one view for each method; and the questions of each set."""

    output: Path
    runs: dict[str, TrainResult]
    together: "Mapping[str, Sets]"  # set -> "before", a method each, "never_seen" -> evaluation
    report: dict[str, Any]  # of `together`
    questions: dict[str, list[str]]
