"""Small test beds of TOFU's authors: a pretrained model that memorized them, and a never-seen model.

    python benchmarks/tofu_test_bed.py --model MODEL --tofu FOLDER [--output runs/tofu] [--beds 0 1 2 3]

Test bed n has five authors to forget (of the 20 of forget10_perturbed.json), five to keep (of the 20 of retain_perturbed.json) and ten that nobody
learns (of the last 80 of retain90.json); no two test beds share an author. MODEL is small (that of benchmarks/tofu_base.py) and learns the rows by
full fine-tuning until every token is right. What is finished in the output folder is not done again.
"""

import argparse
import json
from pathlib import Path

from datasets import concatenate_datasets

from memorize import memorize
from peft_unlearn import data

PER_AUTHOR = 20
# set: file, authors of test bed n
SETS = {
    "forget": ("forget10_perturbed.json", lambda n: range(5 * n, 5 * n + 5)),
    "unseen": ("retain90.json", lambda n: range(100 + 10 * n, 110 + 10 * n)),
    "retain": ("retain_perturbed.json", lambda n: range(5 * n, 5 * n + 5)),
}


def write_rows(tofu: Path, folder: Path, bed: int) -> None:
    """Write forget.jsonl, unseen.jsonl and retain.jsonl of a test bed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (file, authors) in SETS.items():
        lines = (tofu / file).read_text().splitlines()
        rows = [line for a in authors(bed) for line in lines[a * PER_AUTHOR : (a + 1) * PER_AUTHOR]]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tofu", required=True, type=Path)
    parser.add_argument("--output", default=Path("runs/tofu"), type=Path)
    parser.add_argument("--beds", type=int, nargs="+", default=[0, 1, 2, 3])
    options = parser.parse_args()
    for bed in options.beds:
        folder = options.output / str(bed)
        write_rows(options.tofu, folder, bed)
        sets = {name: data.load(str(folder / f"{name}.jsonl"), name=name).select_columns(["question", "answer"]) for name in SETS}
        for name, rows in (("memorized", concatenate_datasets([sets["forget"], sets["retain"]])), ("never_seen", sets["retain"])):
            if not (folder / name / "training.json").exists():
                right = memorize(options.model, rows, str(folder / name), epochs=40, lr=3e-3, seed=bed)
                (folder / name / "training.json").write_text(json.dumps({"tokens_right": right}))


if __name__ == "__main__":
    main()
