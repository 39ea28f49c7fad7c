"""Rows out of a user's own LoRA, in a bed whose facts live there: one adapter at the end, beside a LoRA that never saw the rows.

    python benchmarks/own_lora.py --folder runs/own_lora

Forgets 20 of 128 rows on top of the LoRA, combines the two, exactly and at rank 16, and evaluates each as one adapter on the base.
"""

import argparse
import json
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from beds.own_lora import OwnLora, build
from peft_unlearn.util.numbers import show
from peft_unlearn.workflows import CombineRequest, EvaluateRequest, TrainRequest, combine, evaluate, train

METRICS = ("extraction_strength", "probability", "rouge_l")
RANK = 16


def recipe(bed: OwnLora, output: Path, **changes: object) -> dict[str, object]:
    """As docs/howto/on-my-own-lora.md has it."""
    return {
        "model_name_or_path": str(bed.base),
        "adapter_name_or_path": str(bed.own),
        "adapter_mode": "stack",
        "forget_dataset": str(bed.rows("forget")),
        "retain_dataset": str(bed.rows("retain")),
        "holdout_dataset": str(bed.rows("holdout")),
        "method": "auto",
        "use_cpu": True,
        "dtype": "float32",
        "max_length": 128,
        "eval_rows": 24,
        "per_device_train_batch_size": 8,
        "disable_tqdm": True,
        "output_dir": str(output),
        **changes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/own_lora"), help="for bed, runs and adapters; what is there is not made again"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-steps", type=int, help="of the forgetting, where its targets are not reached before")
    options = parser.parse_args()
    bed = build(options.folder / "bed", options.seed)
    forgotten = options.folder / "forgotten"
    if not (forgotten / "report.json").exists():
        bound = {} if options.max_steps is None else {"max_steps": options.max_steps}
        train(TrainRequest(recipe(bed, forgotten, seed=options.seed, **bound)))
    told = json.loads((forgotten / "report.json").read_text(encoding="utf-8"))
    run = told["run"]
    print(f"{run['settings']['method']}, {run['steps']} steps, {run['seconds']:.0f} s, {told['verdict']['word']}", flush=True)
    for name, rank in (("one", None), (f"rank {RANK}", RANK)):
        place = options.folder / name.replace(" ", "_")
        if not place.exists():
            combine(CombineRequest([str(bed.own), str(forgotten)], place, rank=rank))
        report = options.folder / f"{place.name}.json"
        if not report.exists():
            evaluate(EvaluateRequest(place, never_seen=bed.never_seen, output=report))
        facts = json.loads((place / "combine.json").read_text(encoding="utf-8"))
        print(f"\n{name}: rank {facts['rank']}, energy {facts['energy']:.5f}, least {min(facts['modules'].values()):.5f}")
        show_table(report)
    print(f"\nlargest difference of logits, one adapter and the stack: {difference(bed, forgotten, options.folder / 'one'):.2e}")


def show_table(report: Path) -> None:
    results = json.loads(report.read_text(encoding="utf-8"))["results"]
    print("| set | metric | before | after | never-seen |\n| --- | --- | --- | --- | --- |")
    for name in ("forget", "retain"):
        for metric in METRICS:
            cells = (show(results[name][view][metric]["mean"]) for view in ("before", "after", "never_seen"))
            print(f"| {name} | {metric.replace('_', ' ')} | {' | '.join(cells)} |")
    print(f"| retain | KL | | {show(results['retain']['after']['retain_kl']['mean'])} | |", flush=True)


@torch.no_grad()
def difference(bed: OwnLora, forgotten: Path, one: Path) -> float:
    """Over the logits of 64 random rows, as a share of the largest logit."""
    ids = torch.randint(3, 200, (64, 32), generator=torch.Generator().manual_seed(0))
    stack = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bed.base), bed.own, adapter_name="own")
    stack.load_adapter(forgotten, adapter_name="forgotten")
    stack.base_model.set_adapter(["own", "forgotten"])
    expected = stack.eval()(ids).logits
    found = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bed.base), one).eval()(ids).logits
    return ((found - expected).abs().max() / expected.abs().max()).item()


if __name__ == "__main__":
    main()
