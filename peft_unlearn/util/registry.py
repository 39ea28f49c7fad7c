"""Parts that a recipe or an audit can name: losses, combiners, metrics and attacks. A part is one file, and its decorator makes it known.

Whatever is said of a part stands in its decorator, its signature and its docstring. A registry reads these from the source, so that a recipe can be
checked and `peft-unlearn keys` can list all parts without importing torch; a part's function is imported when it is asked for. Packages outside bring
their own by an entry point of the group `peft_unlearn.<room>`, whose name is the part's and whose value is the module that holds it.
"""

import ast
import importlib
import importlib.util
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from peft_unlearn.util.errors import UserError

PACKAGE = Path(__file__).parents[1]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Parameter:
    """A keyword of a part: its default, whose type it has, and the interval that it may be in, with or without its ends."""

    default: float | bool
    low: float = -math.inf
    high: float = math.inf
    ends: bool = True


@dataclass(frozen=True)
class Part:
    """What is known of a part without importing it.

    `said` holds the decorator's other keywords, `reads` the names of the positional parameters, in order.
    """

    name: str
    help: str
    module: str
    function: str
    reads: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    paper: str | None
    said: Mapping[str, Any]

    def load(self) -> Callable[..., Any]:
        """The function itself."""
        found: Callable[..., Any] = getattr(importlib.import_module(self.module), self.function)
        return found


class Registry(Mapping[str, Part]):
    """The parts of one room, by name, in the order of their files; those of other packages come after them.

    Args:
        room: the folder in this package, and the end of the entry points' group.
        decorator: what parts are marked with.
    """

    def __init__(self, room: str, decorator: str):
        self.room, self.decorator = room, decorator
        self.group = f"peft_unlearn.{room}"

    def register(
        self,
        *,
        name: str | None = None,
        paper: str | None = None,
        ranges: Mapping[str, tuple[float | None, float | None, bool]] | None = None,
        **said: Any,
    ) -> Callable[[Function], Function]:
        """Mark a function as a part. All arguments must be literals, for they are read from the source.

        Args:
            name: of the part, where it is not the function's.
            paper: its arXiv number.
            ranges: keyword -> lowest and highest value (None: no bound) and whether these themselves are allowed.
            said: what the room wants to know besides.
        """

        def mark(function: Function) -> Function:
            return function

        return mark

    def __getitem__(self, name: str) -> Part:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    @cached_property
    def _parts(self) -> dict[str, Part]:
        found: dict[str, Part] = {}
        for path in sorted((PACKAGE / self.room).glob("*.py")):
            found |= {part.name: part for part in declared(path.read_text(encoding="utf-8"), f"{self.group}.{path.stem}", self.decorator)}
        for point in entry_points(group=self.group):
            if point.name in found:
                raise UserError(
                    f"{point.name}: the package of {point.value} brings a part of that name, which is there already; rename it."
                )
            found[point.name] = self._outside(point)
        return found

    def _outside(self, point: EntryPoint) -> Part:
        """The part of another package.

        Raises:
            UserError: the entry point leads to no such part.
        """
        try:
            source = _source(point.module)
            parts = declared(source, point.module, self.decorator)
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


LOSSES = Registry("losses", "loss")
COMBINERS = Registry("combine", "combiner")
METRICS = Registry("metrics", "metric")
ATTACKS = Registry("attacks", "attack")
loss, combiner, metric, attack = LOSSES.register, COMBINERS.register, METRICS.register, ATTACKS.register


def declared(source: str, module: str, decorator: str) -> list[Part]:
    """The parts in a module's source.

    Raises:
        ValueError: an argument of a decorator, or a default, that is no literal.
    """
    return [
        _part(node, call, module)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
        for call in node.decorator_list
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == decorator
    ]


def _part(node: ast.FunctionDef, call: ast.Call, module: str) -> Part:
    said = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    ranges = said.pop("ranges", {})
    parameters = {}
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        if default is not None:
            low, high, ends = ranges.get(argument.arg, (None, None, True))
            bounds = -math.inf if low is None else low, math.inf if high is None else high
            parameters[argument.arg] = Parameter(ast.literal_eval(default), *bounds, ends)
    return Part(
        name=said.pop("name", node.name),
        help=_first_sentence(ast.get_docstring(node) or ""),
        module=module,
        function=node.name,
        reads=tuple(argument.arg for argument in (*node.args.posonlyargs, *node.args.args)),
        parameters=parameters,
        paper=said.pop("paper", None),
        said=said,
    )


def _first_sentence(docstring: str) -> str:
    """Of its first paragraph, on one line."""
    paragraph = " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) (?=[A-Z])", paragraph)[0]


def _source(module: str) -> str:
    """The source of a module of another package, without importing it or its parents."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)  # of the top package alone: nothing is imported
    if spec is None or spec.origin is None:
        raise ImportError(f"no module named {top!r}")
    path = Path(spec.origin)
    if rest:
        path = path.parent.joinpath(*rest)
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path.read_text(encoding="utf-8")
