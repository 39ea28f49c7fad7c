"""Unlearning runs in the demo's world, each kept in a file as it ends, so that an experiment can be cut and taken up again."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, BitsAndBytesConfig, PrinterCallback

from peft_unlearn import UnlearnConfig, UnlearnTrainer, adapters, evaluation
from peft_unlearn.demo import model, world

NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
METRICS = ("probability", "extraction_strength", "exact_memorisation", "rouge_l")


class Runs:
    """Runs of one experiment; `file` holds a line for each that ended, keyed by seed and settings."""

    def __init__(self, file: str | Path):
        self.file = Path(file)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.touch()
        self.done = {line["key"]: line["result"] for line in map(json.loads, self.file.read_text().splitlines())}

    def _once(self, key: str, compute: Any) -> dict[str, Any]:
        if key not in self.done:
            self.done[key] = compute()
            with self.file.open("a") as file:
                file.write(json.dumps({"key": key, "result": self.done[key]}) + "\n")
        return self.done[key]

    def unlearn(self, seed: int, **settings: Any) -> dict[str, Any]:
        """Unlearn with `settings` in the world of `seed` on its NF4 base: means of each metric by set, the curve, the last rate, seconds a step."""
        return self._once(json.dumps([seed, settings], sort_keys=True), lambda: _unlearn(seed, settings))

    def look(self, seed: int, which: str) -> dict[str, Any]:
        """The world's "memorised" or "never_seen" model in NF4, untouched."""
        return self._once(f"{which} {seed}", lambda: _look(seed, which))


def _world(seed: int) -> tuple[world.World, model.Models]:
    people = world.make_world(seed)
    return people, model.train_models(people, model.default_cache(), seed)


def _means(found: dict[str, evaluation.Evaluation]) -> dict[str, dict[str, float]]:
    return {name: {metric: result[metric]["mean"] for metric in METRICS} for name, result in found.items()}


def _look(seed: int, which: str) -> dict[str, Any]:
    people, models = _world(seed)
    base = adapters.load_base(getattr(models, which), quantization_config=NF4)
    tokenizer = AutoTokenizer.from_pretrained(models.memorised)
    sets = {"forget": people.forget, "retain": people.retain}
    rows = {name: _tokenised(tokenizer, found) for name, found in sets.items()}
    return _means({name: evaluation.evaluate(base, tokenizer, found, batch_size=64) for name, found in rows.items()})


def _tokenised(tokenizer: Any, rows: list[dict[str, str]]) -> Dataset:
    from peft_unlearn import data

    return data.tokenize(Dataset.from_list(rows), tokenizer, 256, name="rows").rows


def _unlearn(seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    people, models = _world(seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        args = UnlearnConfig(folder, seed=seed, disable_tqdm=True, use_cpu=True, logging_steps=10, **settings)
        trainer = UnlearnTrainer(
            str(models.memorised),
            args,
            forget_dataset=Dataset.from_list(people.forget),
            retain_dataset=Dataset.from_list(people.retain),
            processing_class=AutoTokenizer.from_pretrained(models.memorised),
            quantization_config=NF4,
        )
        trainer.remove_callback(PrinterCallback)
        began = time.perf_counter()
        trainer.train()
        seconds = (time.perf_counter() - began) / trainer.state.global_step
        found = {
            name: evaluation.evaluate(trainer.model, trainer.processing_class, rows, batch_size=64) for name, rows in trainer.sets.items()
        }
        curve = [{k: line[k] for k in ("step", "p/forget") if k in line} for line in trainer.state.log_history if "p/forget" in line]
        return _means(found) | {"curve": curve, "lr": trainer.optimizer.param_groups[0]["lr"], "seconds_a_step": seconds}
