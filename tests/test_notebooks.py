"""The notebooks hold: valid, without outputs, every cell parses, imports and recipes exist, links lead somewhere. `make test-all` runs them."""

import ast
import importlib
import re
from pathlib import Path

import nbformat
import pytest

from peft_unlearn.config.keys import keys

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def trees(path: Path) -> list[ast.Module]:
    """Of the code, without a magic that writes a cell into a file."""
    return [ast.parse(re.sub(r"\A%%writefile .*\n", "", source)) for source in cells(path, "code")]


@notebooks
def test_a_notebook_is_valid_and_holds_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    assert path.stat().st_size < 10_000


@notebooks
def test_every_cell_parses_and_finds_what_it_imports(path):
    for tree in trees(path):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "peft_unlearn":
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")


@notebooks
def test_recipes_have_keys_that_there_are(path):
    found = [node for tree in trees(path) for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    recipes = [[key.value for key in node.keys if isinstance(key, ast.Constant)] for node in found]
    recipes = [names for names in recipes if "model_name_or_path" in names]
    assert recipes
    assert {name for names in recipes for name in names} - set(keys()) == set()


@notebooks
def test_links_lead_somewhere(path):
    links = [link for source in cells(path, "markdown") for link in re.findall(r"\]\(([^)#]+)", source)]
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


@notebooks
def test_the_docs_lead_to_it(path):
    for page in ("docs/index.md", "docs/start.md"):
        assert f"../notebooks/{path.name}" in (ROOT / page).read_text(encoding="utf-8")
