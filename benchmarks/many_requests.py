"""Twenty requests to forget, one after another, on top of a user's own LoRA.

    python benchmarks/many_requests.py --folder runs/many_requests
    python benchmarks/many_requests.py --folder runs/not_apart --not-apart

Each asks for the four rows of an author, and keeps all that nobody has asked for so far. After the first, half and all of them all are scored as
`peft-unlearn ledger score` does; then the one in the middle is revoked. What is there already is not made again. `--not-apart` is the control:
later adapters may read what earlier ones read.
"""

import argparse
import json
from pathlib import Path

from datasets import Dataset
from own_lora import recipe
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from beds.own_lora import OwnLora, build
from peft_unlearn import metrics
from peft_unlearn.data.variants import probe
from peft_unlearn.util import journal
from peft_unlearn.util.numbers import show
from peft_unlearn.workflows import AddRequest, LedgerRequest, RevokeRequest, ledger, ledger_run

ROWS = 4
METRICS = ("extraction_strength", "probability", "rouge_l")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/many_requests"))
    parser.add_argument("--bed", type=Path, default=Path("runs/own_lora/bed"))
    parser.add_argument("--not-apart", action="store_true")
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--max-steps", type=int, default=250, help="of a request, where its targets are not reached before")
    options = parser.parse_args()
    if options.not_apart:
        ledger_run.Apart = lambda directions: TrainerCallback()
    bed = build(options.bed)
    rows = bed.rows("facts").read_text(encoding="utf-8").splitlines()
    folder, file = options.folder, options.folder / ledger.FILE
    middle = options.requests // 2
    for number in range(1, options.requests + 1):
        name = f"request-{number}"
        entered = journal.read(file)
        if not any(entry["event"] == "add" and entry["name"] == name for entry in entered):
            folder.mkdir(parents=True, exist_ok=True)
            path, kept = folder.resolve() / f"{name}.jsonl", folder.resolve() / f"{name}-retain.jsonl"
            path.write_text("".join(f"{row}\n" for row in rows[ROWS * (number - 1) : ROWS * number]), encoding="utf-8")
            kept.write_text("".join(f"{row}\n" for row in rows[ROWS * number :]), encoding="utf-8")
            asked = recipe(
                bed,
                folder / name,
                forget_dataset=str(path),
                retain_dataset=str(kept),
                lora_r=4,
                lora_alpha=8,
                per_device_train_batch_size=4,
                eval_rows=16,
                max_steps=options.max_steps,
            )
            ledger.add(AddRequest(asked, folder=folder, name=name))
        if number in (1, middle, options.requests) and not any(
            entry["event"] == "score" and len(entry["scores"]) == number for entry in journal.read(file)
        ):
            ledger.score(LedgerRequest(folder))
    revoked = f"request-{middle}"
    if revoked in ledger.standing(folder):
        ledger.revoke(RevokeRequest(folder, revoked))
        ledger.score(LedgerRequest(folder))
    tell_each(bed, folder, [entry for entry in journal.read(file) if entry["event"] == "add"])
    tell([entry for entry in journal.read(file) if entry["event"] == "score"], revoked)


def tell_each(bed: OwnLora, folder: Path, entries: list[journal.Entry]) -> None:
    """Each request as it was entered; `came` is what the requests before it had left of its rows."""
    print("| request | steps | p of your LoRA | came | after | never-seen | ES came | after | never-seen | retain KL |")
    print("| --- " * 10 + "|")
    for entry in entries:
        name, scores = entry["name"], entry["scores"]
        below = folder / name / f"before-{name}"
        came = left(bed, below, folder / f"{name}.jsonl") if below.exists() else scores["before"]
        steps = json.loads((folder / name / "report.json").read_text(encoding="utf-8"))["run"]["steps"]
        p = (scores["before"]["probability"], came["probability"], *(scores[view]["probability"] for view in ("after", "never_seen")))
        strength = (came["extraction_strength"], *(scores[view]["extraction_strength"] for view in ("after", "never_seen")))
        print(f"| {name} | {steps} | {' | '.join(map(show, (*p, *strength, entry['retain_kl'])))} |", flush=True)


def left(bed: OwnLora, adapter: Path, file: Path) -> dict[str, float]:
    """Means of these rows under the base with one adapter."""
    tokenizer = AutoTokenizer.from_pretrained(bed.base)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bed.base), adapter)
    found = metrics.evaluate(
        model, tokenizer, probe(Dataset.from_list(rows), tokenizer, 128, name=file.name).rows, batch_size=4, generate=False
    )
    return {metric: values["mean"] for metric, values in found.items()}


def tell(scores: list[journal.Entry], revoked: str) -> None:
    print("| requests | metric | first, before | first, now | all, before | all, now | all, never-seen | retain KL |")
    print("| --- " * 8 + "|")
    for entry in scores[:-1]:
        found = entry["scores"]
        for metric in METRICS:
            first = (show(found["request-1"][view][metric]) for view in ("before", "after"))
            whole = (show(sum(one[view][metric] for one in found.values()) / len(found)) for view in ("before", "after", "never_seen"))
            print(f"| {len(found)} | {metric.replace('_', ' ')} | {' | '.join((*first, *whole))} | {show(entry['retain_kl'])} |")
    back = scores[-1]["scores"][revoked]
    print(f"{revoked} revoked: {json.dumps({metric: [back[view][metric] for view in ('before', 'after')] for metric in METRICS})}")


if __name__ == "__main__":
    main()
