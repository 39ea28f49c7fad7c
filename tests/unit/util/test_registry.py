"""Registries: what other packages bring, and how what is wrong with them is said."""

import ast
import importlib
import pickle
import sys

import pytest

from peft_unlearn.config import methods
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.parts import Combiner, Loss
from peft_unlearn.util.registry import COMBINERS, LOSSES, PACKAGE, Registry, loss

GOOD = '''
import nowhere_to_be_found  # a registry does not run the file
from peft_unlearn.util.registry import loss

@loss(name="mine", per="sequence", lowers=False, paper=("1", "2"), ranges={"beta": "above 0"})
def _mine(logps, mask, /, alt_logps, *, beta=-1e-3, steps=4, mean=True, word="x"):
    """Mine: a loss
    of two lines. And more.

    And more.
    """
'''
# source: what is said of it
WRONG = {
    "def mine(logps): ...": "has no function that @loss marks by that name",
    "@loss()\ndef yours(logps): ...": "has no function that @loss marks by that name",
    "@loss\ndef mine(logps): ...": "has no function that @loss marks by that name",
    "@loss(\ndef mine(logps): ...": "cannot be read",
    "@loss(paper=PAPER)\ndef mine(logps): ...": "mine: write a literal in place of PAPER",
    "@loss()\ndef mine(logps, *, tol=TOL): ...": "mine: write a literal in place of TOL",
    "@loss()\ndef mine(logps, *, tol): ...": "mine: the keyword tol has no default",
    "@loss('mine')\ndef mine(logps): ...": "mine: write the decorator's arguments as keyword=value",
    "@loss(**said)\ndef mine(logps): ...": "mine: write the decorator's arguments as keyword=value",
    "@loss()\ndef mine(logprobs): ...": "mine reads logprobs, it may read logits, ref_logits, targets, or alt_hidden, alt_logps",
    "@loss()\ndef mine(logits, logps): ...": "mine reads logits, logps, it may read",
    "@loss(lower=True)\ndef mine(logps): ...": "@loss has no keyword 'lower', it takes name, paper, ranges, per, lowers",
    "@loss(per='row')\ndef mine(logps): ...": "per is 'row', write 'token' or 'sequence'",
    "@loss(ranges={'tol': 'small'})\ndef mine(logps, *, tol=1.0): ...": "'small' is no range, write one such as",
    "@loss(ranges={'tl': 'above 0'})\ndef mine(logps, *, tol=1.0): ...": "mine has no keyword-only parameter 'tl', whose range",
}


def bring(folder, monkeypatch, points, **files):
    """Install a package, as pip would, whose modules are `files`."""
    (folder / "brought").mkdir()
    (folder / "brought/__init__.py").write_text("raise RuntimeError('nobody needs this')")
    for name, text in files.items():
        (folder / "brought" / f"{name}.py").write_text(text)
    info = folder / "brought-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1\n")
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()


def losses() -> Registry[Loss]:
    return Registry("losses", "loss", Loss)


def test_a_part_of_another_package_is_read_without_running_it(tmp_path, monkeypatch):
    bring(tmp_path, monkeypatch, "[peft_unlearn.losses]\nmine = brought.deep", deep=GOOD)
    found = losses()
    assert [*found] == [*found.own, "mine"]
    mine = found["mine"]
    assert (mine.help, mine.papers, mine.reads) == ("Mine: a loss of two lines.", ("1", "2"), ("logps", "mask", "alt_logps"))
    assert (mine.per, mine.lowers, mine.alternate, mine.reference, mine.hidden) == ("sequence", False, True, False, False)
    assert {name: (p.default, p.range and p.range.words) for name, p in mine.parameters.items()} == {
        "beta": (-1e-3, "above 0"),
        "steps": (4, None),
        "mean": (True, None),
        "word": ("x", None),
    }
    assert "brought" not in sys.modules


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_with_a_part_is_one_sentence(text, tmp_path, monkeypatch):
    bring(tmp_path, monkeypatch, "[peft_unlearn.losses]\nmine = brought.part", part=text)
    with pytest.raises(UserError, match="^mine: ") as caught:
        len(losses())
    assert WRONG[text] in str(caught.value)
    assert "mend or remove that package" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_part_whose_module_is_not_there_is_named(tmp_path, monkeypatch):
    bring(tmp_path, monkeypatch, "[peft_unlearn.losses]\nmine = brought.gone")
    with pytest.raises(UserError, match=r"^mine: the entry point brought\.gone cannot be read \(no module named 'brought.gone'\)"):
        len(losses())


@pytest.mark.parametrize("registry", [losses, methods.Methods], ids=["loss", "method"])
def test_a_name_that_is_taken_is_refused(registry, tmp_path, monkeypatch):
    points = "[peft_unlearn.losses]\nnpo = brought.part\n[peft_unlearn.methods]\nnpo = brought.part:X"
    bring(tmp_path, monkeypatch, points, part='@loss(name="npo")\ndef mine(logps): ...')
    with pytest.raises(UserError, match=r"^npo: brought\.part\S* brings that name in peft_unlearn\.\w+, where it is taken"):
        len(registry())


@pytest.mark.parametrize(
    ("value", "words"), [("json:gone", "cannot be read"), ("nowhere:X", "cannot be read"), ("json:loads", "is no Method; mend or remove")]
)
def test_what_is_no_method_is_refused(value, words, tmp_path, monkeypatch):
    bring(tmp_path, monkeypatch, f"[peft_unlearn.methods]\nmine = {value}")
    with pytest.raises(UserError, match=f"^mine: .*{words}"):
        len(methods.Methods())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("beta", 0, "x: 0 is out of range, write a value above 0."),
        ("beta", True, "x: True is not a number."),
        ("steps", 1.5, "x: 1.5 is not a whole number."),
        ("mean", 1, "x: 1 is not true or false."),
        ("word", 1, "x: 1 is not text."),
    ],
)
def test_a_value_is_of_its_parameters_type_and_range(name, value, words, tmp_path, monkeypatch):
    bring(tmp_path, monkeypatch, "[peft_unlearn.losses]\nmine = brought.part", part=GOOD)
    parameter = losses()["mine"].parameters[name]
    with pytest.raises(UserError) as caught:
        parameter.check("x", value)
    assert str(caught.value) == words
    for good in {"beta": (0.5, 3), "steps": (7,), "mean": (False,), "word": ("y",)}[name]:
        parameter.check("x", good)


def test_a_decorator_leaves_a_function_as_it_is():
    def function(logps):
        return logps

    assert loss(paper="1")(function) is function


@pytest.mark.parametrize("part", [*LOSSES.values(), *COMBINERS.values()], ids=lambda part: part.name)
def test_parts_and_their_functions_can_be_pickled(part):
    assert pickle.loads(pickle.dumps(part.function)) is part.function
    assert pickle.loads(pickle.dumps(part)).function is part.function
    assert isinstance(part, Loss | Combiner)


def test_only_ngdiff_pulls_with_unit_vectors():
    assert [name for name, combiner in COMBINERS.items() if combiner.unit] == ["ngdiff"]


@pytest.mark.parametrize(
    "path", sorted(path for room in ("losses", "combine") for path in (PACKAGE / room).glob("*.py")), ids=lambda p: p.stem
)
def test_losses_and_combiners_import_nothing_of_the_project_but_the_registry(path):
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom | ast.Import)]
    modules = [node.module if isinstance(node, ast.ImportFrom) else alias.name for node in nodes for alias in node.names]
    allowed = (f"peft_unlearn.{path.parent.name}.", "peft_unlearn.util.registry", "peft_unlearn.util.parts")
    assert [name for name in modules if name.startswith("peft_unlearn") and not name.startswith(allowed)] == []
