"""A test bed whose facts live in a LoRA: a base that knows the kind of question, a LoRA that learned the facts, one that never saw some."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from beds.kinds import Kind
from beds.models import Recipe, train, train_tokenizer
from beds.source import Row
from peft_unlearn.data.variants import probe
from peft_unlearn.demo.model import epoch_batches, forward

COUNTS = {"forget": 80, "retain": 64, "holdout": 32, "base": 64}  # rows, four of an author
LORA = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
RATE, BATCH, EPOCHS, GOAL = 6e-3, 16, 60, 0.05  # nats a token


@dataclass(frozen=True)
class OwnLora:
    """Folders: the base, the user's LoRA (forget and retain set), and a LoRA trained alike on the retain set alone. The sets lie beside."""

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
    """The bed in that folder, made where it is not there yet: some minutes on one core."""
    from beds.asked import ASKED

    bed, source = OwnLora(folder), ASKED["authors"]
    rows = source.draw(random.Random(f"own LoRA {seed}"), COUNTS)
    if not (bed.base / "config.json").exists():
        recipe = replace(Recipe(), max_epochs=30)
        tokenizer = train_tokenizer(Kind("own lora", rows), recipe)
        found = probe(Dataset.from_list(rows["base"]), tokenizer, recipe.context, name="base").rows
        model, facts = train([[row] for row in found], tokenizer, recipe, seed)
        print("base", facts, flush=True)
        model.save_pretrained(bed.base)
        tokenizer.save_pretrained(bed.base)
    for name, found in rows.items():
        bed.rows(name).write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    for place, sets in ((bed.own, ("forget", "retain")), (bed.never_seen, ("retain",))):
        if not (place / "adapter_config.json").exists():
            _fine_tune(bed.base, place, [row for name in sets for row in rows[name]], seed)
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
        print(epoch, round(loss, 4), flush=True)
    print(place.name, {"epochs": epoch, "loss": round(loss, 4)}, flush=True)
    model.save_pretrained(place)
