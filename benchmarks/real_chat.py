"""A really pretrained chat model, taught rows by TRL's trainer and made to forget some of them: what the tool does outside tiny models.

    python benchmarks/real_chat.py --base FOLDER --rows tofu.jsonl --case heavy --output FOLDER [--key value …]

The base is a chat model such as SmolLM2-135M-Instruct; the rows have `question` and `answer`, as TOFU's forget10, or are LUME's forget.jsonl, of
which the questions about invented people are taken. A case says how many rows are taught and how often. The taught LoRA and a finished run are not
made again: an interrupted command goes on. At the end ten answers are printed: before, after and of the base.
Further keys change the recipe, which is at its defaults otherwise. A step of 12 rows takes some 5 to 10 seconds of one core.
"""

import argparse
import json
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from beds.sft import teach
from peft_unlearn import data
from peft_unlearn.config import reading
from peft_unlearn.model.generation import generate
from peft_unlearn.workflows import TrainRequest, train


@dataclass(frozen=True)
class Case:
    """Rows by their places in the file, and how long they are taught."""

    forget: slice
    retain: slice
    holdout: slice
    epochs: int
    words: tuple[int, int] = (38, 55)  # question and answer together: rows of one length keep steps short


CASES = {
    "light": Case(slice(0, 14), slice(14, 56), slice(56, 72), epochs=10),
    "heavy": Case(slice(0, 24), slice(24, 96), slice(96, 120), epochs=20),
    "short": Case(slice(0, 40), slice(40, 120), slice(120, 160), epochs=15, words=(4, 30)),  # facts such as LUME's about people
}


def questions(path: str) -> list[dict[str, str]]:
    """Rows of question and answer; of LUME's file those of its second task that are questions."""
    rows: list[dict[str, str]] = list(data.load(path, name="rows"))
    if "question" in rows[0]:
        return rows
    asked = [row for row in rows if row["task"] == "Task2" and "qa" in row["id"][-5:]]
    return [{"question": row["prompt"], "answer": row["completion"].strip()} for row in asked]


def split(rows: list[dict[str, str]], case: Case) -> dict[str, list[dict[str, str]]]:
    fitting = [row for row in rows if case.words[0] <= len(f"{row['question']} {row['answer']}".split()) <= case.words[1]]
    return {"forget": fitting[case.forget], "retain": fitting[case.retain], "holdout": fitting[case.holdout]}


def show_answers(base: str, taught: str, run: str, rows: list[dict[str, str]]) -> None:
    """Ten of the rows, evenly spaced, with what is answered before, after and by the base."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    some = rows[:: -(-len(rows) // 10)]
    asked = data.tokenize(Dataset.from_list(some), tokenizer, 256, name="rows").rows
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    found = [generate(model, tokenizer, asked)]
    for adapter in (taught, run):
        model = PeftModel.from_pretrained(model, adapter).eval()
        found.append(generate(model, tokenizer, asked))
        model = model.merge_and_unload()
    for row, of_base, before, after in zip(some, *found, strict=True):
        print("| " + " | ".join(" ".join(text.split()) for text in (row["question"], before, after, of_base)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder or Hub name of a chat model")
    parser.add_argument("--rows", required=True, help="rows with question and answer")
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--name", default="auto", help="folder of this run below --output")
    parser.add_argument("--seed", type=int, default=0)
    options, keys = parser.parse_known_args()
    case, folder = CASES[options.case], options.output / options.case
    sets = split(questions(options.rows), case)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in sets.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not (folder / "taught" / "adapter_config.json").exists():
        base = AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32)
        how = {"rank": 32, "epochs": case.epochs, "max_length": 256, "micro_batch": 4, "seed": options.seed}
        teach(base, AutoTokenizer.from_pretrained(options.base), sets["forget"] + sets["retain"], folder / "taught", **how)
    recipe = {
        "model_name_or_path": options.base,
        "adapter_name_or_path": str(folder / "taught"),
        "dtype": "float32",
        "use_cpu": not torch.cuda.is_available(),
        "max_length": 256,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "seed": options.seed,
        "method": "auto",
        "output_dir": str(folder / options.name),
    }
    recipe |= {f"{name}_dataset": str(folder / f"{name}.jsonl") for name in sets} | reading.parse_overrides(keys)
    report = Path(recipe["output_dir"], "report.json")
    start = time.monotonic()
    if not report.exists():
        train(TrainRequest(recipe))
        print(
            f"\nminutes {(time.monotonic() - start) / 60:.1f}, peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB"
        )
    found = json.loads(report.read_text())
    print(found["verdict"]["word"], {name: found["run"][name] for name in ("steps", "ended", "missed", "seconds")})
    show_answers(options.base, recipe["adapter_name_or_path"], recipe["output_dir"], sets["forget"])


if __name__ == "__main__":
    main()
