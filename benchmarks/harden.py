"""What makes an adapter withstand attacks: inner layers, half of its strength, and how fast half of the forget set teaches the other half again.

    python benchmarks/harden.py run --bed demo|tofu [--beds 0 1 2] [--arms ...] [--folder runs/harden]
    python benchmarks/harden.py table [--folder runs/harden]

Our three methods with early stopping (`stop_at: never_seen`), without and with `logit_lens_coef` and `sam_rho`, baselines,
and the never-seen model.
Attacks are the audit's: `scale` at .5, and `relearning` in its long form, whose steps to 50 % are the worst of three learning rates; the arms "for
200 steps" go on for twice as many.
"""

import json
import tempfile
from typing import Any

import torch
from transformers import AutoTokenizer

import study
from peft_unlearn import metrics
from peft_unlearn.attacks import Context, relearning
from peft_unlearn.attacks.scale import scaled
from peft_unlearn.config.methods import OURS
from peft_unlearn.data.variants import probe
from peft_unlearn.model import adapters
from runs import Bed, Runs, by_arm

HARDENED = {"logit_lens_coef": 0.3, "sam_rho": 0.2}
ARMS: dict[str, dict[str, Any]] = {"never-seen": {}}
for method in OURS:
    ARMS[method] = {"method": method, "stop_at": "never_seen"}
    ARMS[f"{method}, lens and SAM"] = ARMS[method] | HARDENED
ARMS |= {f"mollm, {key}": ARMS["mollm"] | {key: value} for key, value in HARDENED.items()}
STEPS, LONG = relearning.STEPS[True], 200  # of relearning
ARMS |= {f"{name} for {LONG} steps": ARMS[name] | {"relearn": LONG} for name in ("mollm", "mollm, lens and SAM")}
ARMS |= {name: settings for name, settings in study.ARMS.items() if settings["method"] not in OURS}


def run(where: Bed, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    relearning.STEPS[True] = (*STEPS, settings["relearn"]) if "relearn" in settings else STEPS
    settings = {key: value for key, value in settings.items() if key != "relearn"}
    tokenizer = AutoTokenizer.from_pretrained(where.memorized)
    twin = adapters.load_base(where.never_seen, quantization_config=where.quantization_config)
    before = adapters.load_base(where.memorized, quantization_config=where.quantization_config)
    length = min(1024, twin.config.max_position_embeddings)
    sets = {name: probe(getattr(where, name), tokenizer, length, name=name) for name in ("forget", "retain", "holdout")}
    rows = sets["forget"].rows
    with tempfile.TemporaryDirectory() as folder:
        trained = study.trainer_for(where, seed, settings, folder, twin) if settings else None
        if trained is not None:
            trained.train()
        model = twin if trained is None else trained.model
        after = metrics.evaluate(model, tokenizer, rows, batch_size=100, lens=True)
        plain = {
            "before": {"forget": metrics.evaluate(before, tokenizer, rows, batch_size=100, generate=False)},
            "after": {"forget": after},
        }
        probes = {"forget": sets["forget"]._replace(variants={})}
        context = Context(model=model, tokenizer=tokenizer, probes=probes, plain=plain, view="after", full=True, batch_size=100)
        found = {"end": study.look(model, tokenizer, sets), "steps": None if trained is None else trained.state.global_step}
        found |= {name: after[name]["mean"] for name in ("logit_lens", "degenerate")}
        if trained is not None:
            with scaled(model, 0.5):
                found["scale .5"] = context.recall()["extraction_strength"]["mean"]
        shown = relearning.run(context)
    found["relearnt"] = [entry["mean"] for entry in shown if entry["metric"] == "extraction_strength"]
    found["half"] = next(entry["mean"] for entry in shown if entry["metric"] == "steps_to_half")
    return found


def table(runs: dict[str, Runs], beds: list[int]) -> None:
    last = (*STEPS, LONG)
    heads = ["test bed", "run", "steps", "log p", "Min-K AUC", "retain KL", "utility", "degenerate", "logit lens", "ES", "ES at scale .5"]
    heads += [*(f"relearnt, {n}" for n in last), "steps to 50 %"]
    print("| " + " | ".join(heads) + " |\n" + "| --- " * len(heads) + "|")
    for kind, kept in runs.items():
        for n in beds:
            for arm, settings in ARMS.items():
                found = kept.done.get(json.dumps([n, settings], sort_keys=True))
                if found is None:
                    continue
                forget, retain = found["end"]["forget"], found["end"]["retain"]
                cells = [
                    f"{kind} {n}",
                    arm,
                    "" if found["steps"] is None else found["steps"],
                    f"{-forget['loss']:.2f}",
                    f"{forget['min_k_auc']:.3f}",
                ]
                cells += [f"{retain['kl']:.4f}" if "kl" in retain else "", f"{retain['utility']:.3f}"]
                cells += [f"{found['degenerate']:.2f}", f"{found['logit_lens']:.2f}", f"{forget['extraction_strength']:.3f}"]
                shown = [f"{value:.3f}" for value in found["relearnt"]]
                half = f"over {last[len(shown) - 1]}" if found["half"] is None else f"{found['half']:.0f}"
                cells += [f"{found['scale .5']:.3f}" if "scale .5" in found else "", *shown, *[""] * (len(last) - len(shown)), half]
                print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    by_arm(__doc__, "runs/harden", ARMS, run, table)
