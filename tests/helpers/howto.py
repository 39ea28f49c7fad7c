"""Follow a how-to page to the letter, from outside the package: its files in a folder of their own, installed as pip would."""

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import forked
from forked import ROOT, Done

PAGES = ROOT / "docs/howto"
LONGEST = 10  # lines of code that a part may take


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: ```language title="path"."""

    language: str
    title: str
    code: str


def blocks(page: str) -> list[Block]:
    text = (PAGES / page).read_text(encoding="utf-8")
    return [Block(*found) for found in re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)]


def code_lines(block: Block) -> int:
    return sum(bool(line.strip()) for line in block.code.splitlines())


def install(page: str, folder: Path) -> None:
    """Write the Python files that a page shows, and what `pip install` would write of its pyproject.toml."""
    for block in blocks(page):
        if block.language == "python" and block.title:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code, encoding="utf-8")
            (path.parent / "__init__.py").touch()
    (project,) = (tomllib.loads(block.code)["project"] for block in blocks(page) if block.title == "pyproject.toml")
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = (
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items())])
        for group, points in project["entry-points"].items()
    )
    (info / "entry_points.txt").write_text("\n\n".join(groups) + "\n")


# The command line, with the heavy libraries that it has imported in the last line of its output.
PROGRAM = """
import sys
from peft_unlearn.cli import main
status = main(sys.argv[1:])
print(sorted({"torch", "transformers", "trl", "accelerate", "datasets"} & set(sys.modules)))
sys.exit(status)
"""


def run(folder: Path, code: str, *arguments: str) -> Done:
    """Run Python code where the packages in `folder` are installed."""
    (done,) = forked.run(code, *arguments, folder=folder, COLUMNS="200")
    return done


def command(folder: Path, *arguments: str) -> Done:
    """Run `peft-unlearn` there."""
    return run(folder, PROGRAM, *arguments)


def first_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same where no library is imported yet; the last line of the output names the heavy ones that it imported."""
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, cwd=folder, env=environment)
