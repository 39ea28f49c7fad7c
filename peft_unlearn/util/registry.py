"""Parts that a recipe or an audit can name: losses, combiners, metrics and attacks. A part is one file, and its decorator makes it known.

All that is said of a part stands in its decorator, its signature and its docstring. A registry reads these from the source, so that a recipe can
be checked and `peft-unlearn keys` can list all parts without importing torch; a part's function is imported when it is asked for. A package outside
brings its own by an entry point of the group `peft_unlearn.<room>`, whose name is the part's and whose value is the module that holds it.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from peft_unlearn.util import source
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.parts import Attack, Combiner, Loss, Metric, OpenUnlearningLoss, Parameter, Part
from peft_unlearn.util.ranges import Range

PACKAGE = Path(__file__).parents[1]


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
