"""Three roles, each in an empty folder, by the commands that README and the recipes name: what each command prints.

    python benchmarks/three_roles.py lora book publish --folder runs/three_roles

`lora`: somebody takes rows out of a LoRA of their own. `book`: somebody makes a model forget a book. `publish`: that person uploads the adapter,
and another one, who has the book, judges it; the Hub is the tests' server on this machine. Small models that this makes stand in place of
Qwen3-8B, so that a recipe here says `use_cpu` where README's says `load_in_4bit`. What a command prints goes to said.md there, bars and paths of
this machine left out.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from beds import own_lora
from beds.kinds import invented
from beds.models import Recipe, train, train_tokenizer
from peft_unlearn import data
from peft_unlearn.data.variants import probe

ROOT = Path(__file__).parents[1]
LENGTH = 128  # tokens of a piece of the book
HERE: dict[str, Any] = {"dtype": "float32", "use_cpu": True, "max_length": LENGTH, "per_device_train_batch_size": 8}
GPU = (
    "load_in_4bit",
    "use_bnb_nested_quant",
    "gradient_checkpointing",
    "gradient_accumulation_steps",
    "chat_template_kwargs",
    "learning_rate",
)


def lora(folder: Path) -> None:
    """What is there: a base, a LoRA on it, and rows. Then the recipe for it, and what README says of `stack`."""
    bed = own_lora.build(folder.parent / "own_lora")
    for place, name in ((bed.base, "base"), (bed.own, "my-lora")):
        shutil.copytree(place, folder / name)
    for name in ("forget", "retain", "holdout"):
        shutil.copy(bed.rows(name), folder)
    changes = {
        "model_name_or_path": "base",
        "adapter_name_or_path": "my-lora",
        "holdout_dataset": "holdout.jsonl",
        "output_dir": "runs/forgotten",
    }
    write_recipe(folder, "forget-on-my-lora.yaml", changes)
    said = Said(folder)
    said.run("peft-unlearn evaluate my-lora --base base --forget forget.jsonl --set use_cpu=true dtype=float32")
    said.run("peft-unlearn train my-recipe.yaml")
    said.run("peft-unlearn combine my-lora runs/forgotten --output my-lora-2")
    said.run("peft-unlearn evaluate my-lora-2")
    said.run("peft-unlearn retrain-cost my-recipe.yaml")


def book(folder: Path) -> None:
    """What is there: a model that knows a book and two others by heart, and chapters that it never saw."""
    kind = invented("text")
    half = len(kind.rows["retain"]) // 2
    texts = {
        "book.txt": kind.rows["forget"],
        "other-books/one.txt": kind.rows["retain"][:half],
        "other-books/two.txt": kind.rows["retain"][half:],
        "never-read.txt": kind.rows["holdout"],
    }
    for name, rows in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("\n\n".join(textwrap.fill(row["text"], 72) for row in rows) + "\n", encoding="utf-8")
    tokenizer = train_tokenizer(kind, Recipe())
    known = [
        row
        for name in ("book.txt", "other-books")
        for row in probe(data.load(str(folder / name), name=name), tokenizer, LENGTH, name=name).rows
    ]
    model, told = train([[row] for row in known], tokenizer, Recipe(), 0)
    print("model", told, flush=True)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    changes = {"model_name_or_path": "model", "forget_dataset": "book.txt", "retain_dataset": "other-books"}
    write_recipe(
        folder, "forget-my-own-jsonl.yaml", changes | {"holdout_dataset": "never-read.txt", "output_dir": "runs/forgotten"}, "max_steps"
    )
    said = Said(folder)
    said.run("peft-unlearn plan my-recipe.yaml")
    said.run("peft-unlearn train my-recipe.yaml")
    said.run("peft-unlearn merge runs/forgotten --output runs/merged")


def publish(folder: Path) -> None:
    """The adapter of the book goes up, and somebody else judges it who has the book."""
    sys.path.insert(0, str(ROOT / "tests/helpers"))
    from local_hub import Hub, Repo

    author, judge = folder / "author", folder / "judge"
    made = folder.parent / "book"
    shutil.copytree(made, author)
    judge.mkdir()
    for name in ("book.txt", "never-read.txt"):
        shutil.copy(made / name, judge)
    shutil.copytree(made / "other-books", judge / "other-books")
    with Hub() as hub:
        hub.repos["org/model"] = Repo(private=False)
        hub.repos["org/model"].branches["main"].append({path.name: path.read_bytes() for path in (made / "model").iterdir()})
        online = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_x", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        said = Said(author, **online, HF_HOME=str(folder / "author-cache"))
        said.run("peft-unlearn push runs/forgotten me/forgotten")
        said.run("peft-unlearn push runs/forgotten me/forgotten --base org/model")
        said = Said(judge, **online, HF_HOME=str(folder / "judge-cache"))
        said.run("peft-unlearn evaluate me/forgotten")
        sets = "--forget book.txt --retain other-books --holdout never-read.txt"
        said.run(f"peft-unlearn evaluate me/forgotten {sets}")
        said.run(f"peft-unlearn audit me/forgotten {sets} --output audit/report.json")


SHOWN = (
    "loss ",
    "probability ",
    "extraction strength ",
    "rouge l ",
    "verbatim ",
    "min k auc ",
    "retain kl ",
)  # lines of tables that a page has


def shortened(said: str) -> str:
    """What was said without most lines of tables and of progress, for a page."""
    kept: list[str] = []
    for line in said.splitlines():
        row = line.startswith(" ") and re.match(r" [a-z]", line) is not None
        progress = re.match(r"Step \d+ of", line) is not None and any(re.match(r"Step \d+ of", one) for one in kept[-2:])
        if (row and not line[1:].startswith(SHOWN)) or progress or not line.strip():
            if kept and kept[-1] != "…" and line.strip():
                kept.append("…")
            continue
        if line.startswith("exit status"):
            kept += [] if line.endswith(" 0") else ["", line]
        else:
            kept += ["", line, ""] if line.startswith("    peft-unlearn") else [line.rstrip()]
    return "\n".join(kept)


ROLES = {"lora": lora, "book": book, "publish": publish}


def write_recipe(folder: Path, recipe: str, changes: Mapping[str, Any], *without: str) -> None:
    """my-recipe.yaml: one of recipes/, with names and what a small model on a CPU needs."""
    values = yaml.safe_load((ROOT / "recipes" / recipe).read_text(encoding="utf-8"))
    values = {key: value for key, value in values.items() if key not in (*GPU, *without)}
    (folder / "my-recipe.yaml").write_text(yaml.safe_dump(values | dict(changes) | HERE, sort_keys=False), encoding="utf-8")


class Said:
    """Commands that run in a folder, and what they print."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder, self.page = folder, folder / "said.md"
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
            "PYTHONPATH": paths,
            **environment,
        }

    def run(self, line: str) -> None:
        words = [sys.executable, "-m", "peft_unlearn", *shlex.split(line)[1:]]
        done = subprocess.run(words, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = [text for text in done.stdout.splitlines() if not re.search(r"\d+%\||: \d+ examples|it/s\]|^\{'", text)]
        said = "\n".join(lines).replace(str(self.folder.resolve()), ".")
        with self.page.open("a", encoding="utf-8") as page:
            page.write(f"    {line}\n\n```text\n{said}\n```\n\nexit status {done.returncode}\n\n")
        print(f"{line}: {done.returncode}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "roles", nargs="+", choices=(*ROLES, "page"), metavar="ROLE", help=f"{', '.join(ROLES)}; or page, which shows what is there"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/three_roles"))
    options = parser.parse_args()
    if options.roles == ["page"]:
        for role in ROLES:
            for page in sorted((options.folder / role).rglob("said.md")):
                print(f"## {page.parent.relative_to(options.folder)}\n\n{shortened(page.read_text(encoding='utf-8'))}\n")
        return
    for role in options.roles:
        place = (options.folder / role).resolve()
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        ROLES[role](place)


if __name__ == "__main__":
    main()
