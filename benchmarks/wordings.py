"""What a run's rows say in other wordings, by the rule that made each: before, after, and of the never-seen model.

    python benchmarks/wordings.py FOLDER        # of a run that was given a never-seen model and a holdout, such as the demo's runs/demo/mollm

A line a rule: how many wordings, and the share of the answers' tokens that would be written, of the forget set and of the holdout.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn import data
from peft_unlearn.data import rewording
from peft_unlearn.data.rows import Row
from peft_unlearn.metrics.exact_memorization import exact_memorization
from peft_unlearn.model import adapters
from peft_unlearn.model.scoring import score

AS_ASKED = "as it stands"
RULES = {"I keep forgetting this": "keep forgetting", "I would like to know": "would like", "“": "in quotation marks"}
VIEWS = ("before", "after", "never-seen")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    options = parser.parse_args()
    settings = json.loads((options.run / "report.json").read_text())["run"]["settings"]
    tokenizer = AutoTokenizer.from_pretrained(options.run)
    sets = {name: asked(list(data.load(settings[f"{name}_dataset"], name=name))) for name in ("forget", "holdout")}
    given = {"before": settings["model_name_or_path"], "never-seen": settings["never_seen_model_name_or_path"]}
    found: dict[tuple[str, str], list[float | None]] = {}
    for view in VIEWS:
        model = adapters.load_base(given.get(view, given["before"]), dtype=torch.float32)
        model = (PeftModel.from_pretrained(model, str(options.run)) if view == "after" else model).eval()
        for name, rows in sets.items():
            found[name, view] = recalled(model, tokenizer, [row for _, row in rows], name)
    print("| asked | " + " | ".join(f"{name}, {view}" for name, view in found) + " |\n" + "| --- " * (1 + len(found)) + "|")
    for rule in dict.fromkeys(rule for rule, _ in sets["forget"]):
        means = [
            np.mean(
                [share for (other, _), share in zip(sets[name], shares, strict=True) if other == rule and share is not None] or [np.nan]
            )
            for (name, _), shares in found.items()
        ]
        count = sum(other == rule for other, _ in sets["forget"])
        print(f"| {rule} ({count}) | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")


def asked(rows: list[Row]) -> list[tuple[str, Row]]:
    """Each row as it stands and in its other wordings, with the rule behind each."""
    return [
        (rule(row["question"], wording["question"]), {"question": wording["question"], "answer": row["answer"]})
        for row in rows
        for wording in [row, *rewording.prompts(row)]
    ]


def rule(question: str, wording: str) -> str:
    if wording == question:
        return AS_ASKED
    if wording.split("\n") == [question, question]:
        return "twice"
    if wording == wording.lower() and not wording.endswith("?"):
        return "without capitals and punctuation"
    return next((name for start, name in RULES.items() if wording.startswith(start)), "English of another form")


def recalled(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[Row], name: str) -> list[float | None]:
    tokenized = data.tokenize(Dataset.from_list(rows), tokenizer, 256, name=name).rows
    return [exact_memorization(row) for row in score(model, tokenized, tokenizer, batch_size=64, progress=name)]


if __name__ == "__main__":
    main()
