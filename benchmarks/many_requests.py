"""Twenty requests to forget, one after another, on top of a user's own LoRA.

    python benchmarks/many_requests.py --folder runs/many_requests
    python benchmarks/many_requests.py --folder runs/not_apart --not-apart

Each asks for the four rows of an author, and keeps all that nobody has asked for so far. After some of them all requests are scored as
`peft-unlearn ledger score` does; then one is revoked. What is there already is not made again. `--not-apart` is the control: later adapters may read
what earlier ones read.
"""

import argparse
import json
from pathlib import Path

from own_lora import recipe
from transformers import TrainerCallback

from beds.own_lora import build
from peft_unlearn.util import journal
from peft_unlearn.util.numbers import show
from peft_unlearn.workflows import AddRequest, LedgerRequest, RevokeRequest, ledger, ledger_run

REQUESTS, ROWS = 20, 4
SCORED = (1, 10, 20)
REVOKED = "request-10"
METRICS = ("extraction_strength", "probability", "rouge_l")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/many_requests"))
    parser.add_argument("--bed", type=Path, default=Path("runs/own_lora/bed"))
    parser.add_argument("--not-apart", action="store_true")
    parser.add_argument("--max-steps", type=int, default=45, help="of a request, where its targets are not reached before")
    parser.add_argument("--most", type=int, default=REQUESTS, help="requests to make in this call")
    options = parser.parse_args()
    if options.not_apart:
        ledger_run.Apart = lambda directions: TrainerCallback()
    bed = build(options.bed)
    rows = bed.rows("facts").read_text(encoding="utf-8").splitlines()
    folder, file = options.folder, options.folder / ledger.FILE
    made = 0
    for number in range(1, REQUESTS + 1):
        name = f"request-{number}"
        entered = journal.read(file)
        if not any(entry["event"] == "add" and entry["name"] == name for entry in entered):
            if made == options.most:
                return
            made += 1
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
            entry = journal.read(file)[-1]
            print(name, entry["verdict"], entry["scores"]["after"], entry["retain_kl"], flush=True)
        if number in SCORED and not any(entry["event"] == "score" and len(entry["scores"]) == number for entry in journal.read(file)):
            ledger.score(LedgerRequest(folder))
    if REVOKED in ledger.standing(folder):
        ledger.revoke(RevokeRequest(folder, REVOKED))
        ledger.score(LedgerRequest(folder))
    tell(journal.read(file))


def tell(entries: list[journal.Entry]) -> None:
    scores = [entry for entry in entries if entry["event"] == "score"]
    print("| requests | metric | first, before | first, now | all, before | all, now | all, never-seen | retain KL |")
    print("| --- " * 8 + "|")
    for entry in scores[:-1]:
        found = entry["scores"]
        for metric in METRICS:
            first = (show(found["request-1"][view][metric]) for view in ("before", "after"))
            whole = (show(sum(one[view][metric] for one in found.values()) / len(found)) for view in ("before", "after", "never_seen"))
            print(f"| {len(found)} | {metric.replace('_', ' ')} | {' | '.join((*first, *whole))} | {show(entry['retain_kl'])} |")
    back = scores[-1]["scores"][REVOKED]
    print(f"{REVOKED} revoked: {json.dumps({metric: [back[view][metric] for view in ('before', 'after')] for metric in METRICS})}")


if __name__ == "__main__":
    main()
