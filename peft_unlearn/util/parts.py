"""What is known of a loss, a combiner, a metric or an attack without importing it."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from peft_unlearn.util.errors import UserError
from peft_unlearn.util.ranges import Range, check_number

ORDER = (9, 0, 1, 2, 3, 4, 5, 6, 7, 8)  # places of metrics and attacks, the default first


@dataclass(frozen=True)
class Parameter:
    """A keyword of a part: its default, whose type all its values have, and the range of a number."""

    default: Any
    range: Range | None = None

    def __str__(self) -> str:
        return str(self.default) if self.range is None else f"{self.default}, {self.range.words}"

    def check(self, name: str, value: Any) -> None:
        """See that a value is of the default's type and in the range.

        Raises:
            UserError: it is not; the message begins with `name`.
        """
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise UserError(f"{name}: {value!r} is not true or false.")
        elif isinstance(self.default, int | float):
            check_number(name, value, self.range, whole=isinstance(self.default, int))
        elif isinstance(self.default, str) and not isinstance(value, str):
            raise UserError(f"{name}: {value!r} is not text.")


@dataclass(frozen=True, eq=False)
class Part:
    """What is known of a part without importing it. Called, it is its function.

    Attributes:
        name: what a recipe calls it.
        help: the first sentence of its docstring.
        module, attribute: where its function is.
        reads: names of the positional parameters, in order.
        parameters: of the keyword-only ones, defaults and ranges.
        papers: arXiv numbers.
        said: the decorator's other keywords, with the defaults of those that were left out.
    """

    name: str
    help: str
    module: str
    attribute: str
    reads: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    papers: tuple[str, ...]
    said: Mapping[str, Any]

    # What the decorator takes besides: the values that each may have, the default first. None: anything.
    KEYWORDS: ClassVar[Mapping[str, tuple[Any, ...]] | None] = None
    # Inputs that its function may read, in sets of those that go together. Empty: anything.
    READS: ClassVar[tuple[frozenset[str], ...]] = ()

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself; the first use imports it."""
        found: Callable[..., Any] = getattr(importlib.import_module(self.module), self.attribute)
        return found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def order(self) -> int:
        """Its place among metrics or attacks, the lowest first; those that say none come last."""
        return int(self.said["order"])


class Loss(Part):
    """A loss, with what the trainer must know to call and average it."""

    KEYWORDS: ClassVar[Mapping[str, tuple[Any, ...]] | None] = {"per": ("token", "sequence"), "lowers": (True, False)}
    READS: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"logits", "targets", "ref_logits"}),  # computed a chunk of tokens at a time, apart from all else
        frozenset({"mask", "alt_mask"} | {of + name for of in ("", "ref_", "alt_", "alt_ref_") for name in ("logps", "hidden")}),
    )

    @property
    def per(self) -> Literal["token", "sequence", "batch"]:
        """What it returns one number for."""
        per: Literal["token", "sequence"] = self.said["per"]
        return per

    @property
    def lowers(self) -> bool:
        """Whether its gradient lowers the log-probability of the labels."""
        return bool(self.said["lowers"])

    @property
    def reference(self) -> bool:
        """Whether the reference must be run."""
        return any(name.startswith(("ref_", "alt_ref_")) for name in self.reads)

    @property
    def alternate(self) -> bool:
        """Whether forget rows need an alternate answer."""
        return any(name.startswith("alt_") for name in self.reads)

    @property
    def hidden(self) -> bool:
        """Whether it reads hidden states."""
        return "hidden" in self.reads


class OpenUnlearningLoss(Loss):
    """A loss as OpenUnlearning computes it, over a whole micro-batch; `said` holds the keys of a recipe that it serves, and under which value."""

    KEYWORDS: ClassVar[Mapping[str, tuple[Any, ...]] | None] = None
    READS: ClassVar[tuple[frozenset[str], ...]] = ()

    @property
    def per(self) -> Literal["token", "sequence", "batch"]:
        return "batch"


class Combiner(Part):
    """A combiner of gradients."""

    KEYWORDS: ClassVar[Mapping[str, tuple[Any, ...]] | None] = {"unit": (False, True)}

    @property
    def unit(self) -> bool:
        """Whether each objective pulls with a unit vector, however near it is to its goal."""
        return bool(self.said["unit"])


class Metric(Part):
    """A metric of a set of rows."""

    KEYWORDS: ClassVar[Mapping[str, tuple[Any, ...]] | None] = {
        "needs": (None, "scores", "text", "samples", "layers"),
        "direction": (None, "lower", "higher", "never_seen"),
        "family": (False, True),
        "order": ORDER,
    }

    @property
    def needs(self) -> Literal["scores", "text", "samples", "layers"] | None:
        """What must be done with a row before it can be measured; None of what is no metric of rows (`metrics.suite`)."""
        needs: Literal["scores", "text", "samples", "layers"] | None = self.said["needs"]
        return needs

    @property
    def direction(self) -> Literal["lower", "higher", "never_seen"] | None:
        """Which way is better where a text is to be forgotten; "never_seen" is the never-seen model's value."""
        direction: Literal["lower", "higher", "never_seen"] | None = self.said["direction"]
        return direction

    @property
    def family(self) -> bool:
        """Whether its name in a report has something before or after it, as min_k_auc and leak_at_4 have."""
        return bool(self.said["family"])


class Attack(Part):
    """An attack of an audit."""

    KEYWORDS: ClassVar[Mapping[str, tuple[Any, ...]] | None] = {
        "order": ORDER,
        "quick": (False, True),
        "control": (False, True),
    }

    @property
    def quick(self) -> bool:
        """Whether it is in the quick set, which the verdict FORGOTTEN AS TESTED rests on."""
        return bool(self.said["quick"])

    @property
    def control(self) -> bool:
        """Whether a never-seen model can be attacked in the same way."""
        return bool(self.said["control"])
