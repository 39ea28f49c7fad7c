"""What comes back when a forgetting adapter is shipped: merged into 16/32-bit weights, then int8 or NF4, or merged in place into NF4.

    python benchmarks/train_quantized.py run --bed demo|tofu [--beds 0 1 2] [--arms ...] [--folder runs/train_quantized]
    python benchmarks/train_quantized.py table [--folder runs/train_quantized]

Our three methods with `stop_at: never_seen`, without `train_quantized` and with it. R is the share of what was forgotten that comes
back: (shipped − adapter) / (before − adapter), on extraction strength and on the best of the rephrased questions.
"""

import json
import tempfile
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight

import study
from peft_unlearn.attacks import precision
from peft_unlearn.config.methods import OURS
from peft_unlearn.data.variants import probe
from peft_unlearn.model import adapters
from peft_unlearn.model.fake_quant import int8, nf4
from runs import Bed, Runs, by_arm

ARMS = {
    f"{method}{'' if train_quantized == 'none' else ', train_quantized: ' + train_quantized}": {
        "method": method,
        "stop_at": "never_seen",
        "train_quantized": train_quantized,
    }
    for method in OURS
    for train_quantized in ("none", "nf4")
}
# way to ship: (what the sum is rounded to, whether the base is rounded before)
WAYS = {
    "32-bit": (lambda weight: weight, False),
    "32-bit, int8": (int8, False),
    "32-bit, NF4": (nf4, False),
    "in place NF4": (nf4, True),
}


def run(where: Bed, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    twin = adapters.load_base(where.never_seen, quantization_config=where.quantization_config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = study.trainer_for(where, seed, settings, folder, twin)
        trainer.train()
        length = min(trainer.args.max_length, trainer.model.config.max_position_embeddings)
        tokenizer = trainer.processing_class
        sets = {name: probe(getattr(where, name), tokenizer, length, name=name) for name in ("forget", "retain", "holdout")}
        found = {"adapter": study.look(trainer.model, tokenizer, sets), "steps": trainer.state.global_step}
        with adapters.view(trainer.model, "reference"):
            found["before"] = study.look(trainer.model.get_base_model(), tokenizer, sets)
        layers = [module for module in trainer.model.modules() if isinstance(module, LoraLayer)]
        share = [
            layer.get_delta_weight(adapters.STUDENT).norm() / dequantize_module_weight(layer.get_base_layer()).norm() for layer in layers
        ]
        found["change"] = sorted(float(value) for value in share)
        base = adapters.load_base(where.memorized, dtype=torch.float32)
        for way, (rounding, in_place) in WAYS.items():
            with precision.rewritten(trainer.model, precision.layers(base), rounding, in_place, {}):
                found[way] = study.look(base, tokenizer, sets)
    return found


def table(runs: dict[str, Runs], beds: list[int]) -> None:
    print("| test bed | run | change | way | forget ES | R of ES | rephrased | R of rephrased | log p | AUC | retain utility |")
    print("| --- " * 11 + "|")
    for kind, kept in runs.items():
        for arm, settings in ARMS.items():
            for n in beds:
                found = kept.done.get(json.dumps([n, settings], sort_keys=True))
                if found is None:
                    continue
                before, after = found["before"]["forget"], found["adapter"]["forget"]
                for way in ("before", "adapter", *WAYS):
                    now = found[way]["forget"]
                    cells = []
                    for metric in ("extraction_strength", "worst_of_k"):
                        back = (now[metric] - after[metric]) / (before[metric] - after[metric])
                        cells += [f"{now[metric]:.3f}", "" if way in ("before", "adapter") else f"{back:.1%}"]
                    middle = found["change"][len(found["change"]) // 2]
                    print(
                        f"| {kind} {n} | {arm} | {middle:.1%} | {way} | {' | '.join(cells)} | {-now['loss']:.2f} | {now['min_k_auc']:.3f} "
                        f"| {found[way]['retain']['utility']:.4f} |"
                    )


if __name__ == "__main__":
    by_arm(__doc__, "runs/train_quantized", ARMS, run, table)
