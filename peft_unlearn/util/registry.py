"""Parts that a recipe or an audit can name: losses, combiners, metrics and attacks. A part is one file, and its decorator makes it known.

All that is said of a part stands in its decorator, its signature and its docstring. A registry reads these from the source, so that a recipe can
be checked and `peft-unlearn keys` can list all parts without importing torch; a part's function is imported when it is asked for. A package outside
brings its own by an entry point of the group `peft_unlearn.<room>`, whose name is the part's and whose value is the module that holds it.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from peft_unlearn.util import source
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.ranges import Range, check_number

PACKAGE = Path(__file__).parents[1]


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
        "order": (9, 0, 1, 2, 3, 4, 5, 6, 7, 8),
        "quick": (False, True),
        "control": (False, True),
    }

    @property
    def order(self) -> int:
        """Its place among the attacks, the lowest first."""
        return int(self.said["order"])

    @property
    def quick(self) -> bool:
        """Whether it is in the quick set, which the verdict FORGOTTEN AS TESTED rests on."""
        return bool(self.said["quick"])

    @property
    def control(self) -> bool:
        """Whether a never-seen model can be attacked in the same way."""
        return bool(self.said["control"])


Kind = TypeVar("Kind", bound=Part)
Function = TypeVar("Function", bound=Callable[..., Any])


class Registry(Mapping[str, Kind], Generic[Kind]):
    """The parts of one room, by name, in the order of their files; those of other packages come after them.

    Args:
        room: the folder in this package, and the end of the entry points' group.
        decorator: what parts are marked with.
        kind: what they are.
        outside: whether other packages may bring their own.
    """

    def __init__(self, room: str, decorator: str, kind: type[Kind], *, outside: bool = True):
        self.room, self.decorator, self.kind, self.outside = room, decorator, kind, outside

    def register(
        self, *, name: str | None = None, paper: str | tuple[str, ...] = (), ranges: Mapping[str, str] | None = None, **said: Any
    ) -> Callable[[Function], Function]:
        """Mark a function as a part, and leave it as it is. All arguments must be literals, for they are read from the source.

        Args:
            name: of the part, where it is not the function's.
            paper: its arXiv number, or several.
            ranges: keyword -> the values that it may have, in the words of `Range`: {"beta": "above 0"}.
            said: what the room wants to know besides.
        """

        def mark(function: Function) -> Function:
            return function

        return mark

    def __getitem__(self, name: str) -> Kind:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @cached_property
    def own(self) -> dict[str, Kind]:
        """The parts of this package."""
        return {
            part.name: part
            for path in sorted((PACKAGE / self.room).glob("*.py"))
            for part in self._read(path.read_text(encoding="utf-8"), f"peft_unlearn.{self.room}.{path.stem}")
        }

    @cached_property
    def _all(self) -> dict[str, Kind]:
        found = dict(self.own)
        for point in entry_points(group=f"peft_unlearn.{self.room}") if self.outside else ():
            refuse_double(point, found)
            found[point.name] = self._outside(point)
        return found

    def _outside(self, point: EntryPoint) -> Kind:
        """The part of another package.

        Raises:
            UserError: the entry point leads to no such part.
        """
        try:
            parts = self._read(source.of_module(point.module), point.module)
        except (ImportError, OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"{point.name}: the entry point {point.value} cannot be read ({error}); mend or remove that package."
            ) from error
        for part in parts:
            if part.name == point.name:
                return part
        raise UserError(
            f"{point.name}: {point.value} has no function that @{self.decorator} marks by that name; mend or remove that package."
        )

    def _read(self, text: str, module: str) -> list[Kind]:
        return [self._part(found, module) for found in source.marked(text, self.decorator)]

    def _part(self, found: source.Marked, module: str) -> Kind:
        """The part that a marked function is.

        Raises:
            ValueError: its decorator says what it cannot.
        """
        said, known = dict(found.keywords), self.kind.KEYWORDS or {}
        name, paper, ranges = said.pop("name", found.function), said.pop("paper", ()), said.pop("ranges", {})
        if wrong := sorted(set(ranges) - set(found.defaults)):
            raise ValueError(f"{name} has no keyword-only parameter {wrong[0]!r}, whose range its decorator gives")
        if self.kind.READS and not any(readable.issuperset(found.positional) for readable in self.kind.READS):
            readable = ", or ".join(", ".join(sorted(names)) for names in self.kind.READS)
            raise ValueError(f"{name} reads {', '.join(found.positional)}, it may read {readable}")
        for key, value in said.items() if self.kind.KEYWORDS is not None else ():
            if key not in known:
                raise ValueError(f"@{self.decorator} has no keyword {key!r}, it takes name, paper, ranges, {', '.join(known)}")
            if value not in known[key]:
                raise ValueError(f"{key} is {value!r}, write {' or '.join(map(repr, known[key]))}")
        return self.kind(
            name=name,
            help=found.help,
            module=module,
            attribute=found.function,
            reads=found.positional,
            parameters={key: Parameter(default, Range(ranges[key]) if key in ranges else None) for key, default in found.defaults.items()},
            papers=(paper,) if isinstance(paper, str) else tuple(paper),
            said={**{key: values[0] for key, values in known.items()}, **said},
        )


def refuse_double(point: EntryPoint, known: Mapping[str, Any]) -> None:
    """Refuse a part or method of another package whose name is taken.

    Raises:
        UserError: it is.
    """
    if point.name in known:
        raise UserError(
            f"{point.name}: {point.value} brings that name in {point.group}, where it is taken; rename it or remove that package."
        )


LOSSES = Registry("losses", "loss", Loss)
OPENUNLEARNING = Registry("losses", "openunlearning_loss", OpenUnlearningLoss, outside=False)
COMBINERS = Registry("combine", "combiner", Combiner)
METRICS = Registry("metrics", "metric", Metric)
ATTACKS = Registry("attacks", "attack", Attack)
loss, openunlearning_loss, combiner = LOSSES.register, OPENUNLEARNING.register, COMBINERS.register
metric, attack = METRICS.register, ATTACKS.register


def openunlearning_losses(key: str) -> dict[str, OpenUnlearningLoss]:
    """OpenUnlearning's losses by the value of a recipe's key, such as forget_loss, that they stand for. What is not here, is not there."""
    return {loss.said[key]: loss for loss in OPENUNLEARNING.values() if key in loss.said}
