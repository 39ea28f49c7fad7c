"""How fast what was forgotten is learnt again from half of it: steps to 50 % of the other half, worst of three learning rates.

    python benchmarks/relearn.py run --world demo|tofu [--worlds 0 1 2] [--arms ...] [--folder runs/relearn]
    python benchmarks/relearn.py table [--folder runs/relearn]

Every method as it is in the study, the founding ones as they land (`stop_at: never_seen`), those with `resist` as well, and never-seen itself. The
attack is the audit's in its long form (peft_unlearn/attacks/relearning.py), on half of the forget set.
"""

import argparse
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

import study
from peft_unlearn import adapters, evaluation
from peft_unlearn.attacks import Context, relearning
from peft_unlearn.evaluation.probes import probe
from peft_unlearn.methods import FOUNDING
from runs import Runs, World, demo_world, tofu_world

RESIST = 0.2
ARMS: dict[str, dict[str, Any]] = {"never-seen": {}}
ARMS |= {f"{method} to never_seen": {"method": method, "stop_at": "never_seen"} for method in FOUNDING}
ARMS |= {f"{method} to never_seen, resist": {"method": method, "stop_at": "never_seen", "resist": RESIST} for method in FOUNDING}
ARMS |= {name: settings for name, settings in study.ARMS.items() if settings["method"] not in FOUNDING}


def run(where: World, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(where.memorised)
    twin = adapters.load_base(where.never_seen, quantization_config=where.quantization_config)
    length = min(1024, twin.config.max_position_embeddings)
    sets = {name: probe(getattr(where, name), tokenizer, length, name=name) for name in ("forget", "retain", "holdout")}
    forget = {"forget": sets["forget"]._replace(variants={})}
    with tempfile.TemporaryDirectory() as folder:
        trained = study.trainer_for(where, seed, settings, folder, twin) if settings else None
        if trained is not None:
            trained.train()
        model = twin if trained is None else trained.model
        found = {"end": study.look(model, tokenizer, sets), "steps": None if trained is None else trained.state.global_step}
        base = adapters.load_base(where.memorised, quantization_config=where.quantization_config)
        plain = {
            view: {"forget": evaluation.evaluate(at, tokenizer, sets["forget"].rows, batch_size=100, generate=False)}
            for view, at in (("before", base), ("after", model))
        }
        context = Context(model=model, tokenizer=tokenizer, probes=forget, plain=plain, view="after", full=True, batch_size=100)
        shown = relearning.run(context)
    found["relearnt"] = {entry["what"]: entry["mean"] for entry in shown if entry["metric"] == "extraction_strength"}
    found["half"] = next(entry["mean"] for entry in shown if entry["metric"] == "steps_to_half")
    asked = [i for i in range(len(sets["forget"].rows)) if i >= len(sets["forget"].rows) // 2]
    for view in plain:
        rows = plain[view]["forget"]["extraction_strength"]["rows"]
        found[view] = sum(rows[i] for i in asked) / len(asked)
    return found


def table(runs: dict[str, Runs], worlds: list[int]) -> None:
    last = relearning.STEPS[True]
    heads = ["world", "run", "log p", "AUC", "retain KL", "utility", "ES of the half after", *(f"{n} steps" for n in last), "steps to 50 %"]
    print("| " + " | ".join(heads) + " |\n" + "| --- " * len(heads) + "|")
    for kind, kept in runs.items():
        for arm, settings in ARMS.items():
            for n in worlds:
                found = kept.done.get(json.dumps([n, arm, settings], sort_keys=True))
                if found is None:
                    continue
                forget, retain = found["end"]["forget"], found["end"]["retain"]
                cells = [f"{kind} {n}", arm, f"{-forget['loss']:.2f}", f"{forget['min_k_auc']:.3f}", f"{retain.get('kl', 0):.4f}"]
                cells += [f"{retain['utility']:.3f}", f"{found['after']:.3f}", *(f"{value:.3f}" for value in found["relearnt"].values())]
                print("| " + " | ".join([*cells, f"over {last[-1]}" if found["half"] is None else f"{found['half']:.0f}"]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("run", "table"))
    parser.add_argument("--world", choices=("demo", "tofu"), default="demo")
    parser.add_argument("--worlds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--tofu-worlds", type=Path, default=Path("runs/tofu"))
    parser.add_argument("--folder", type=Path, default=Path("runs/relearn"))
    options = parser.parse_args()
    makers = {"demo": cache(demo_world), "tofu": cache(tofu_world(options.tofu_worlds))}
    if options.do == "table":
        there = {kind: options.folder / f"{kind}.jsonl" for kind in makers}
        return table({kind: Runs(file) for kind, file in there.items() if file.is_file()}, options.worlds)
    chosen = Runs(options.folder / f"{options.world}.jsonl", makers[options.world])
    for n in options.worlds:
        for arm in options.arms:
            key = json.dumps([n, arm, ARMS[arm]], sort_keys=True)
            found = chosen.once(key, lambda n=n, arm=arm: run(chosen.make(n), n, ARMS[arm]))
            print(f"world {n}, {arm}: {found['half']} steps", flush=True)
    return None


if __name__ == "__main__":
    main()
