"""The docs hold: links lead somewhere, code compiles, recipes are accepted, commands parse, pages are short and in the field's words."""

import ast
import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml

import facts
from peft_unlearn.config import recipe
from peft_unlearn.config.keys import keys

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    {ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")} - set((DOCS / "_build").rglob("*"))
)
FENCE = re.compile(r"^(?P<ticks>`{3,})(?P<head>[^\n]*)\n(?P<body>.*?)^(?P=ticks)\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


pages = pytest.mark.parametrize("path", PAGES, ids=name)


@cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    return [block["body"] for block in FENCE.finditer(text(path)) if (block["head"].split() or [""])[0] == language]


def unfenced(path: Path) -> str:
    return FENCE.sub("", text(path))


def prose(path: Path) -> str:
    """Without code (fenced, indented, or between backticks), and in studies without what commands printed."""
    leave = ("    ", "|") if path.parent.name == "studies" else "    "
    lines = [line for line in unfenced(path).splitlines() if not line.startswith(leave)]
    return re.sub(r"`[^`]*`", "", "\n".join(lines))


def anchors(path: Path) -> set[str]:
    """What headings are called in a link, as GitHub and MyST do."""
    heads = re.findall(r"^#+ (.+)$", unfenced(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pages
def test_links_lead_somewhere(path):
    lost = []
    for match in LINK.finditer(unfenced(path)):
        target, _, anchor = match["target"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        page = (path.parent / target).resolve() if target else path
        if not page.exists() or (anchor and anchor not in anchors(page)):
            lost.append(match["target"])
    assert lost == []


@pages
def test_files_that_are_named_exist(path):
    if path.name in ("log.md", "migration.md", "renamed.md"):
        return  # they name what is gone
    named = re.findall(r"(?<![\w/.-])((?:peft_unlearn|benchmarks|tests|recipes|docs)/[\w./-]+\.(?:py|ya?ml|md|txt|jsonl))", text(path))
    assert [file for file in named if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("folder", ["benchmarks", "peft_unlearn", "recipes", "tests"])
def test_pages_that_code_names_exist(folder):
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml", ".jinja")]
    lost = {(name(path), page) for path in files for page in re.findall(r"docs/[\w./-]+\.md", text(path)) if not (ROOT / page).exists()}
    assert lost == set()


@pages
def test_python_compiles_and_finds_its_imports(path):
    for block in blocks(path, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "peft_unlearn":
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    assert alias.name.split(".")[0] != "peft_unlearn" or importlib.import_module(alias.name)


@pages
def test_recipes_are_accepted(path):
    for block in blocks(path, "yaml"):
        values = yaml.safe_load(block)
        if "model_name_or_path" in values:
            recipe.check(values)


def commands(path: Path) -> list[str]:
    """Command lines in blocks of any kind, and those between backticks that say more than a command's name."""
    whole = text(path).replace("\\\n", " ")
    lines = [line.strip() for line in whole.splitlines() if line.startswith(("    peft-unlearn ", "peft-unlearn "))]
    lines += [line for line in re.findall(r"`(peft-unlearn [^`\n]+)`", whole) if len(line.split()) > 2]
    return [line for line in lines if "..." not in line and "…" not in line]


@pages
def test_commands_parse(path):
    for line in commands(path):
        _, command, *arguments = shlex.split(line, comments=True)
        options = facts.parsers()[command].parse_args(arguments)
        if command in ("train", "plan"):
            unknown = set(recipe_overrides(options.overrides)) - set(keys()) - ({"processes"} if command == "train" else set())
            assert unknown == set(), line


def recipe_overrides(arguments: list[str]) -> list[str]:
    return [argument[2:].partition("=")[0].replace("-", "_") for argument in arguments if argument.startswith("--")]


def test_every_command_is_shown():
    shown = {shlex.split(line, comments=True)[1] for path in PAGES for line in commands(path)}
    assert shown >= set(facts.parsers()) - {"keys", "demo"}
    assert "peft-unlearn keys" in text(ROOT / "README.md")


# Longer: studies (tables of what was measured) and the log, which nobody reads in one go; reference, which is looked up; the list of modules.
# Shorter: pages that include another file, or that the site fills from the package.
LONG = ("docs/studies/", "docs/reference/", "docs/log.md", "docs/renamed.md")
SHORT = ("docs/changelog.md", "docs/reference/", "docs/feature-matrix.md")


@pages
def test_pages_are_short(path):
    size, of = path.stat().st_size, name(path)
    if path.parent == ROOT:
        assert size <= 6000
    else:
        assert of.startswith(SHORT) or size >= 1000
        assert of.startswith((*LONG, "docs/feature-matrix.md")) or size <= 4096


OLD = re.compile(
    r"\b(landing|landed|lands|founding|twins?|peers?|unmade|trims?|knobs?|levels|hard step|inner_coef|dual_rate|resist|demo's worlds?|optimis\w+|"
    r"quantis\w+|memoris\w+|normalis\w+|tokenis\w+|minimis\w+|neighbour\w*|behaviour\w*)\b",
    re.IGNORECASE,
)


@pages
def test_prose_has_the_fields_words(path):
    if path.name in ("log.md", "migration.md", "renamed.md"):
        return  # they say what the words were
    assert sorted(set(OLD.findall(prose(path)))) == []


def test_every_page_is_in_the_site():
    """In the table of contents; patterns count for what they match."""
    entries = [line.strip() for block in FENCE.finditer(text(DOCS / "index.md")) for line in block["body"].splitlines()]
    listed = {page for entry in entries if entry and not entry.startswith(":") for page in DOCS.glob(f"{entry}.md")}
    assert {path for path in PAGES if DOCS in path.parents} - listed - {DOCS / "index.md"} == set()


def test_the_glossary_has_twelve_words():
    glossary = next(block["body"] for block in FENCE.finditer(text(DOCS / "concepts/glossary.md")) if "glossary" in block["head"])
    assert len(re.findall(r"^\w.*$", glossary, re.MULTILINE)) == 12
