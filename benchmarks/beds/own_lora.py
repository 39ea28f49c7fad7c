"""A test bed whose facts live in a LoRA: a base that knows the kind of question, a LoRA that learned the facts, one that never saw some."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from beds.kinds import SOURCES, Kind
from beds.models import Recipe, train, train_tokenizer
from beds.source import Row
from peft_unlearn.data.variants import probe
from peft_unlearn.demo.model import epoch_batches, forward

COUNTS = {
    "forget": 128,
    "holdout": 24,
    "retain": 48,
}  # rows, four of an author: the facts of the LoRA, those of nobody, and those of the base
SHAPE = Recipe(num_hidden_layers=2, intermediate_size=256, max_epochs=20)
ASKED = 20  # of the facts, that are to be forgotten
LORA = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
RATE, BATCH, EPOCHS, GOAL = 8e-3, 16, 40, 0.05  # nats a token


@dataclass(frozen=True)
class OwnLora:
    """Folders: the base, the user's LoRA, which learned all facts, and a LoRA trained alike on the retain set alone. The sets lie beside."""

    folder: Path

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def own(self) -> Path:
        return self.folder / "own"

    @property
    def never_seen(self) -> Path:
        return self.folder / "never_seen"

    def rows(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"


def build(folder: Path, seed: int = 0) -> OwnLora:
    """The bed in that folder, made where it is not there yet: some seconds on one core."""
    bed = OwnLora(folder)
    drawn = SOURCES["authors"].draw(random.Random(f"own LoRA {seed}"), COUNTS)
    facts = drawn["forget"]
    if not (bed.base / "config.json").exists():
        tokenizer = train_tokenizer(Kind("own lora", drawn), SHAPE)
        found = probe(Dataset.from_list(drawn["retain"]), tokenizer, SHAPE.context, name="base").rows
        model, told = train([[row] for row in found], tokenizer, SHAPE, seed)
        print("base", told, flush=True)
        model.save_pretrained(bed.base)
        tokenizer.save_pretrained(bed.base)
    sets = {"facts": facts, "forget": facts[:ASKED], "retain": facts[ASKED:], "holdout": drawn["holdout"]}
    for name, rows in sets.items():
        bed.rows(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for place, rows in ((bed.own, facts), (bed.never_seen, sets["retain"])):
        if not (place / "adapter_config.json").exists():
            _fine_tune(bed.base, place, rows, seed)
    return bed


def _fine_tune(base: Path, place: Path, rows: Sequence[Row], seed: int) -> None:
    """A LoRA that memorizes rows, by plain AdamW."""
    torch.manual_seed(seed)
    rng, tokenizer = random.Random(seed), AutoTokenizer.from_pretrained(base)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LORA)
    found = list(probe(Dataset.from_list(list(rows)), tokenizer, 256, name="own").rows)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    steps = math.ceil(len(found) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 30, max(0.05, 1 - step / (EPOCHS * steps))))
    loss, epoch = math.inf, 0
    while loss > GOAL and epoch < EPOCHS:
        losses = []
        for batch in epoch_batches(found, rng, BATCH, int(tokenizer.pad_token_id)):
            step_loss, _ = forward(model.get_base_model(), batch)
            optimizer.zero_grad()
            step_loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(step_loss.item())
        loss, epoch = sum(losses) / len(losses), epoch + 1
    print(place.name, {"epochs": epoch, "loss": round(loss, 4)}, flush=True)
    model.save_pretrained(place)
