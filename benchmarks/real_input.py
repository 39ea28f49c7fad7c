"""Real questions, a really trained tokenizer and model: TOFU pairs, memorized by a small pretrained model, forgotten through the command line.

    python benchmarks/real_input.py --model MODEL --tofu FOLDER [--output runs/real_input]

MODEL is a small pretrained causal model (stories260K: 260 032 parameters), FOLDER holds TOFU's forget01.json and retain99.json.
The 40 rows of forget01 (2 authors) and the first 160 of retain99 (8 authors) are memorized; a never-seen model memorizes the 160 alone. Then
`peft-unlearn train` runs each method at its defaults. What is finished in the output folder is not done again.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

from datasets import concatenate_datasets
from transformers import AutoModelForCausalLM, AutoTokenizer

from memorize import memorize
from peft_unlearn import data, metrics
from peft_unlearn.workflows import TrainRequest, train

METHODS = ("mean_teacher", "ngdiff", "mollm", "graddiff", "npo")
METRICS = ("probability", "extraction_strength", "exact_memorization", "rouge_l")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tofu", required=True, type=Path)
    parser.add_argument("--output", default=Path("runs/real_input"), type=Path)
    options = parser.parse_args()
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    for name, source, rows in (("forget", "forget01.json", 40), ("retain", "retain99.json", 160)):
        with open(options.tofu / source) as lines:
            (output / f"{name}.jsonl").write_text("".join(islice(lines, rows)))
    sets = {name: data.load(str(output / f"{name}.jsonl"), name=name) for name in ("forget", "retain")}
    for name, rows in (("memorized", concatenate_datasets([sets["forget"], sets["retain"]])), ("never_seen", sets["retain"])):
        if not (output / name / "tokenizer_config.json").exists():
            memorize(options.model, rows, str(output / name), epochs=80, lr=3e-3)

    recipe = {
        "model_name_or_path": str(output / "memorized"),
        "dtype": "float32",
        "forget_dataset": str(output / "forget.jsonl"),
        "retain_dataset": str(output / "retain.jsonl"),
        "max_length": 512,
        "eval_rows": 0,
        "per_device_eval_batch_size": 40,
        "output_dir": str(output / "out"),
    }
    for method in METHODS:
        folder = output / method
        if not (folder / "report.json").exists():
            train(TrainRequest(recipe, {"method": method, "output_dir": str(folder)}))

    tokenizer = AutoTokenizer.from_pretrained(output / "never_seen")
    twin = AutoModelForCausalLM.from_pretrained(output / "never_seen")
    found = {"never-seen": {}}
    for name, rows in sets.items():
        tokenized = data.tokenize(rows, tokenizer, 512, name=name).rows
        found["never-seen"][name] = metrics.evaluate(twin, tokenizer, tokenized, batch_size=40)
    for method in METHODS:
        results = json.loads((output / method / "report.json").read_text())["results"]
        found["before"] = {name: results[name]["before"] for name in sets}
        found[method] = {name: results[name]["after"] for name in sets}
    print("| | " + " | ".join(f"{name} {metric}".replace("_", " ") for name in sets for metric in METRICS) + " |")
    print("| --- " * (1 + 2 * len(METRICS)) + "|")
    for view in ("before", "never-seen", *METHODS):
        print(f"| {view} | " + " | ".join(f"{found[view][name][metric]['mean']:.4f}" for name in sets for metric in METRICS) + " |")


if __name__ == "__main__":
    main()
