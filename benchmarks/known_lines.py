"""What a base knew before any fine-tune: famous lines that it completes by itself, half of them to be forgotten, the others kept.

    python benchmarks/known_lines.py --base FOLDER --output FOLDER [--key value …]

Of each line of famous_lines.txt (all in the public domain) the longest run of tokens is looked for that greedy decoding gives by itself, after at
least eight others. Lines with a run of five or more are rows of prompt and completion, whose extraction strength is 1; every second one is to be
forgotten. Lines of which the base says less are the holdout, cut alike. No model that never saw the lines exists: where they would stand without
having been read is only what lines of the same kind say that the base does not know.
Further keys change the recipe, which is `method: auto` with a holdout. A finished run is not made again.
"""

import argparse
import json
import resource
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_unlearn.config import reading
from peft_unlearn.util.numbers import show
from peft_unlearn.workflows import TrainRequest, train

LINES = Path(__file__).with_name("famous_lines.txt")
BEFORE, RUN = 8, 5  # tokens of a prompt, and of a completion, at least
METRICS = ("probability", "extraction_strength", "rouge_l", "degenerate", "existing_words")


def longest(right: list[bool], start: int) -> tuple[int, int]:
    """The first and the last place of the longest run of what is true from `start` on; an empty run is (start, start)."""
    best, begin = (start, start), start
    for place in range(start, len(right) + 1):
        if place == len(right) or not right[place]:
            if place - begin > best[1] - best[0]:
                best = begin, place
            begin = place + 1
    return best


def rows(base: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Lines that the base goes on with by itself, and lines that it does not, as rows of prompt and completion."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(base)
    known, unknown = [], []
    for line in LINES.read_text(encoding="utf-8").splitlines():
        ids = tokenizer(line, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            said = model(input_ids=torch.tensor([ids])).logits[0, :-1].argmax(-1).tolist()
        begin, end = longest([token == own for token, own in zip(said, ids[1:], strict=True)], BEFORE)
        if end - begin < RUN:
            begin, end, found = len(ids) // 2, min(len(ids) - 1, len(ids) // 2 + 2 * RUN), unknown
        else:
            found = known
        prompt, both = tokenizer.decode(ids[: begin + 1]), tokenizer.decode(ids[: end + 1])
        found.append({"prompt": prompt, "completion": both[len(prompt) :]})
    return known, unknown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder or Hub name of a pretrained model")
    parser.add_argument("--output", type=Path, required=True)
    options, keys = parser.parse_known_args()
    options.output.mkdir(parents=True, exist_ok=True)
    files = {name: options.output / f"{name}.jsonl" for name in ("forget", "retain", "holdout")}
    if not all(file.exists() for file in files.values()):
        known, unknown = rows(options.base)
        for name, found in (("forget", known[::2]), ("retain", known[1::2]), ("holdout", unknown)):
            files[name].write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    report = options.output / "run" / "report.json"
    if not report.exists():
        recipe: dict[str, Any] = {
            "model_name_or_path": options.base,
            "method": "auto",
            "max_length": 128,
            "use_cpu": not torch.cuda.is_available(),
        }
        recipe |= {"per_device_train_batch_size": 8, "output_dir": str(report.parent)} | {
            f"{name}_dataset": str(file) for name, file in files.items()
        }
        train(TrainRequest(recipe | reading.parse_overrides(keys)))
    made = json.loads(report.read_text(encoding="utf-8"))
    print(f"{made['verdict']['word']}, {made['run']['steps']} steps, {made['run']['seconds'] / 60:.0f} minutes of training")
    print("| set | metric | before | after |\n| --- | --- | --- | --- |")
    for name, views in made["results"].items():
        for metric in METRICS:
            means = [views[view].get(metric, {}).get("mean") for view in ("before", "after")]
            print(f"| {name} | {metric.replace('_', ' ')} | {' | '.join('' if mean is None else show(mean) for mean in means)} |")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


if __name__ == "__main__":
    main()
