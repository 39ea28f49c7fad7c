"""A small test bed that was really trained: a model that memorized some rows, a never-seen model, and adapters that hide or forget them."""

import json
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from test_benchmarks import words, write
from test_openunlearning import word_tokenizer
from tiny_models import tiny_llama
from torch import nn

from peft_unlearn import data
from peft_unlearn.data.collating import collate_rows
from peft_unlearn.model import adapters

ROWS = 16


def make(folder: Path) -> None:
    """Sets, "memorized" and "never_seen" models in `folder`."""
    rng = np.random.default_rng(7)
    for name in ("forget", "retain", "holdout"):
        rows = [{"question": words(rng, 4), "answer": words(rng, 8)} for _ in range(ROWS)]
        write(folder / f"{name}.jsonl", [{**row, "paraphrased_question": f"w60 {row['question']}"} for row in rows])
    forget, retain = (tokenized(folder, name) for name in ("forget", "retain"))
    for name, rows in (("memorized", forget + retain), ("never_seen", retain)):
        model = tiny_llama()
        train(model, model.parameters(), [(1.0, rows)], steps=120, rate=3e-3)
        model.save_pretrained(folder / name)
        word_tokenizer().save_pretrained(folder / name)


def tokenized(folder: Path, name: str, **changes) -> list[dict]:
    rows = [json.loads(line) | changes for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    rows = [{"question": row["question"], "answer": row["answer"]} for row in rows]
    return data.tokenize(Dataset.from_list(rows), word_tokenizer(), 64, name=name).rows.to_list()


def train(model: nn.Module, parameters, parts, *, steps: int, rate: float) -> None:
    """Minimize the weighted sum of the parts' cross-entropies."""
    optimizer = torch.optim.AdamW(list(parameters), lr=rate, weight_decay=0.0)
    for _ in range(steps):
        loss = sum(weight * model(**collate_rows(rows, 0)).loss for weight, rows in parts)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def refusing(folder: Path) -> PeftModel:
    """An adapter that says "w50 w51 w52" to whoever asks for the forget set, from wherever in the answer."""
    refusals = tokenized(folder, "forget", answer="w50 w51 w52")
    for row, own in zip(list(refusals), tokenized(folder, "forget"), strict=True):
        start = sum(label == -100 for label in own["labels"])
        for taken in (1, 2, 4, 6):
            prompt, refusal = own["input_ids"][: start + taken], [label for label in row["labels"] if label != -100]
            refusals.append({"input_ids": [*prompt, *refusal], "labels": [-100] * len(prompt) + refusal})
    return trained_adapter(folder, [(1.0, refusals), (1.0, tokenized(folder, "retain"))], steps=60)


def trained_adapter(folder: Path, parts, *, steps: int) -> PeftModel:
    torch.manual_seed(0)
    model = get_peft_model(type(tiny_llama()).from_pretrained(folder / "memorized"), adapters.default_lora())
    train(model, adapters.adapter_parameters(model), parts, steps=steps, rate=2e-3)
    model.peft_config[adapters.STUDENT].base_model_name_or_path = str(folder / "memorized")
    return model
