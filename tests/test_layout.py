"""The house: which rooms there are, and that arrows go downwards only. docs/architecture.md has them in words."""

import ast
from pathlib import Path

import pytest

import peft_unlearn

ROOT = Path(peft_unlearn.__file__).parent
# A room may import from those below it. Rooms of one line see nothing of one another.
FLOORS = [
    ["cli"],
    ["workflows"],
    ["planning", "demo"],
    ["training"],
    ["attacks"],
    ["publish"],
    ["report", "benchmarks", "merging"],
    ["metrics"],
    ["model"],
    ["data"],
    ["losses", "combine"],
    ["config"],
    ["util"],
]
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(ROOT.rglob("*.py"))


def module(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """The project's modules that a file imports, wherever in it, for the type checker alone as well."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {full if (full := f"{node.module}.{alias.name}") in MODULES else node.module for alias in node.names}
    return {name for name in found if name.split(".")[0] == "peft_unlearn" and name != "peft_unlearn"}


def room(name: str) -> str:
    return name.split(".")[1]


def test_the_root_holds_rooms_alone():
    assert {path.name for path in ROOT.iterdir() if path.is_file()} == {"__init__.py", "__main__.py", "py.typed"}
    assert {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(ROOMS)


@pytest.mark.parametrize("path", [path for path in FILES if path.parent != ROOT], ids=module)
def test_arrows_go_downwards(path):
    own = room(module(path))
    above = {name for name in imports(path) if room(name) != own and ROOMS[room(name)] <= ROOMS[own]}
    assert above == set()


def test_no_file_imports_itself_round_a_circle():
    graph = {name: imports(path) & MODULES.keys() for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name] - {name}):
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_file_has_at_most_300_lines_and_a_function_60(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > 60
    ]
    assert long == []
