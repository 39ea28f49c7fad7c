"""The public surface is frozen: exported names, keys, methods and commands. A change of tests/surface.txt is made on purpose.

python tests/test_surface.py        # or `make surface`: write it anew
"""

import ast
import difflib
import importlib
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs/_ext"))

import facts  # noqa: E402
import peft_unlearn  # noqa: E402
from peft_unlearn.config import methods  # noqa: E402

SURFACE = ROOT / "tests/surface.txt"
EXPORTING = ("peft_unlearn", "peft_unlearn.losses", "peft_unlearn.combine", "peft_unlearn.workflows")


def exported(module: str) -> list[str]:
    found = importlib.import_module(module)
    return sorted(getattr(found, "__all__", []))


def surface() -> str:
    """One name a line, under its head."""
    lines = []
    for module in EXPORTING:
        lines += [f"[{module}]", *exported(module), ""]
    for name, parser in facts.parsers().items():
        lines += [f"[peft-unlearn {name}]"]
        lines += sorted(" ".join(action.option_strings) or action.dest for action in facts.options(parser))
        lines += [""]
    lines += ["[keys]", *sorted(facts.own_keys()), "", "[methods]", *sorted(methods.METHODS), ""]
    for room, registry in facts.REGISTRIES.items():
        lines += [f"[{room}]", *(f"{name} {' '.join(sorted(part.parameters))}".rstrip() for name, part in sorted(registry.items())), ""]
    return "\n".join(lines)


def test_the_public_surface_is_the_one_that_is_written_down():
    written = SURFACE.read_text(encoding="utf-8")
    changed = "\n".join(difflib.unified_diff(written.splitlines(), surface().splitlines(), "tests/surface.txt", "the package", lineterm=""))
    assert not changed, f"{changed}\nIf that is meant, renew the file: python tests/test_surface.py, and say why in CHANGELOG.md."


def test_exported_names_exist():
    for module in EXPORTING:
        found = importlib.import_module(module)
        assert [name for name in exported(module) if not hasattr(found, name)] == []


# Of extras: what needs them says where they are missing.
OPTIONAL = {"gguf", "gradio", "llama_cpp", "lm_eval", "shtab"}


def imported() -> set[str]:
    """Top-level modules of other projects that the package imports, wherever in a file."""
    found = set()
    for path in (ROOT / "peft_unlearn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"peft_unlearn"}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_imported_package_is_declared_and_none_besides():
    brought = packages_distributions()
    needed = {plain(brought[name][0]) for name in imported() - OPTIONAL}
    declared = {plain(re.match(r"[\w.-]+", line)[0]) for line in project()["dependencies"]}
    assert declared == needed


def test_the_version_is_said_once_everywhere():
    assert f"## {peft_unlearn.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {peft_unlearn.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    SURFACE.write_text(surface(), encoding="utf-8")
