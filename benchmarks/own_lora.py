"""Rows out of a user's own LoRA, in a bed whose facts live there: one adapter at the end, beside a LoRA that never saw the rows.

    python benchmarks/own_lora.py --folder runs/own_lora

Forgets 20 of 128 rows in three ways: on top of the LoRA, on top of it with a rank of 4, and by training it further. Combines what stands on top with
the LoRA, exactly and at smaller ranks, and evaluates each as one adapter on the base.
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
# What each run says besides `recipe`, and the ranks that its sum with the LoRA is cut to; None is the exact one.
RUNS: dict[str, tuple[dict[str, object], tuple[int | None, ...]]] = {
    "forgotten": ({}, (None, 28, 24, 20, 16)),
    "forgotten_4": ({"lora_r": 4, "lora_alpha": 8}, (None, 16)),
    "continued": ({"adapter_mode": "continue"}, ()),
}


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
    bound = {} if options.max_steps is None else {"max_steps": options.max_steps}
    for name, (changes, ranks) in RUNS.items():
        run = options.folder / name
        if not (run / "report.json").exists():
            train(TrainRequest(recipe(bed, run, seed=options.seed, **changes, **bound)))
        told = json.loads((run / "report.json").read_text(encoding="utf-8"))
        print(f"\n{name}: {told['run']['steps']} steps, {told['run']['ended']}, {told['run']['seconds']:.0f} s, {told['verdict']['word']}")
        if not ranks:
            show_table(measured(bed, run))
        for rank in ranks:
            place = options.folder / f"{name}-{rank or 'exact'}"
            if not place.exists():
                combine(CombineRequest([str(bed.own), str(run)], place, rank=rank))
            facts = json.loads((place / "combine.json").read_text(encoding="utf-8"))
            print(f"\nrank {facts['rank']}, energy {facts['energy']:.4f}, least {min(facts['modules'].values()):.4f}")
            show_table(measured(bed, place))
        if ranks:
            print(f"largest difference of logits, one adapter and the stack: {difference(bed, run, options.folder / f'{name}-exact'):.1e}")


def measured(bed: OwnLora, adapter: Path) -> Path:
    """Its report beside the LoRA that never saw the rows."""
    report = adapter.parent / f"{adapter.name}.json"
    if not report.exists():
        evaluate(EvaluateRequest(adapter, never_seen=bed.never_seen, output=report))
    return report


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
