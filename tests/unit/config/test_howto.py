"""The how-tos for losses, combiners and methods, followed to the letter from outside the package."""

import json
from pathlib import Path

import pytest
import yaml
from howto import LONGEST, PAGES, ROOT, blocks, code_lines, first_command, install, run

from peft_unlearn.cli import main
from peft_unlearn.config.methods import METHODS, Method
from peft_unlearn.publish import write_card

PARTS = {"add-a-loss.md": "soft_ascent", "add-a-combiner.md": "strongest", "add-a-method.md": "gentle"}
PAPERS = {"add-a-loss.md": "2502.19301", "add-a-combiner.md": "2203.12817", "add-a-method.md": "2203.12817"}
pages = pytest.mark.parametrize("page", PARTS)

# Two steps of the recipe's settings on a tiny model, and the adapter with its card.
TRAIN = """
import json, sys
sys.path += sys.argv[2:]
from datasets import Dataset
from peft import LoraConfig
from tiny_models import tiny_llama
from test_trainer_equivalence import FORGET, RETAIN, tokenizer
from peft_unlearn import UnlearnConfig, UnlearnTrainer
args = UnlearnConfig("adapter", use_cpu=True, report_to="none", max_steps=2, logging_steps=1, learning_rate=1e-3, **json.loads(sys.argv[1]))
trainer = UnlearnTrainer(tiny_llama(), args, FORGET, RETAIN, processing_class=tokenizer(), peft_config=LoraConfig(r=2, target_modules="all-linear"))
before = [p.detach().clone() for p in trainer.student]
trainer.train()
trainer.save_model()
print(any((p != q).any() for p, q in zip(before, trainer.student)), trainer.state.global_step)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, Path]:
    folders = {}
    for page in PARTS:
        folders[page] = tmp_path_factory.mktemp(Path(page).stem)
        install(page, folders[page])
    return folders


def settings(page: str) -> dict:
    """What the page's recipe says."""
    (recipe,) = (yaml.safe_load(block.code) for block in blocks(page) if block.title == "recipe.yaml")
    return recipe


def write_recipe(folder: Path, **values) -> None:
    base = {"model_name_or_path": "some/model", "forget_dataset": "forget.jsonl", "output_dir": "out"}
    (folder / "forget.jsonl").write_text('{"text": "a"}\n')
    (folder / "recipe.yaml").write_text(yaml.safe_dump(base | values))


def refused(folder: Path) -> tuple[int, str, str]:
    """Status, error and the heavy libraries imported, of a training whose model is nowhere."""
    done = first_command(folder, "train", "recipe.yaml")
    return done.returncode, done.stderr, done.stdout.splitlines()[-1] if done.stdout else ""


@pytest.mark.parametrize("page", sorted(path.name for path in PAGES.glob("add-a*.md")))
def test_a_part_takes_one_file_of_at_most_ten_lines(page):
    (file,) = (block for block in blocks(page) if block.language == "python" and block.title)
    assert 0 < code_lines(file) <= LONGEST


@pages
def test_keys_show_the_part_with_its_paper_and_import_nothing_heavy(page, installed):
    done = first_command(installed[page], "keys", PARTS[page])
    assert done.returncode == 0, done.stderr
    assert PARTS[page] in done.stdout
    assert PAPERS[page] in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    assert main(["keys", PARTS[page]]) == 2  # where the package is not installed


@pages
def test_a_recipe_may_name_it(page, installed):
    code = "import json, sys; from peft_unlearn.config import recipe; print(json.dumps(recipe.check(json.loads(sys.argv[1]))))"
    given = {"model_name_or_path": "m", "forget_dataset": "f", "output_dir": "o", **settings(page)}
    done = run(installed[page], code, json.dumps(given))
    assert json.loads(done.stdout) == given, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"power": 9}, "forget_loss_args.power: 9 is out of range, write a value from 0 to 4."),
        ({"power": "high"}, "forget_loss_args.power: 'high' is not a number."),
        ({"tol": 1}, "forget_loss_args: soft_ascent has no parameter 'tol', it takes power."),
    ],
)
def test_its_parameters_are_checked_before_torch_is_imported(arguments, words, installed):
    folder = installed["add-a-loss.md"]
    write_recipe(folder, **settings("add-a-loss.md") | {"forget_loss_args": arguments})
    assert refused(folder) == (2, f"peft-unlearn: error: {words}\n", "[]")


def test_a_method_needs_no_paper(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS._all, "mine", Method("a method of mine", {"forget_loss": "log_odds", "combine": "gru"}))
    card = write_card(tmp_path, base="some/base", method="mine", settings=METHODS["mine"].settings).read_text(encoding="utf-8")
    assert "| method | `mine`: a method of mine |" in card
    assert "| forget loss | `log_odds`: Log-odds of each token" in card
    assert "(https://arxiv.org/abs/2503.09117)) |" in card  # the combiner's


@pages
def test_it_trains_and_the_card_shows_it_with_its_paper(page, installed):
    done = run(installed[page], TRAIN, json.dumps(settings(page)), str(ROOT / "tests/helpers"), str(ROOT / "tests/integration"))
    assert done.stdout.splitlines()[-1:] == ["True 2"], done.stderr
    card = (installed[page] / "adapter/README.md").read_text(encoding="utf-8")
    (row,) = (line for line in card.splitlines() if f"`{PARTS[page]}`:" in line)
    assert f"https://arxiv.org/abs/{PAPERS[page]}" in row
