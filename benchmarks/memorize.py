"""Make a small pretrained model memorize question/answer rows, as a user's fine-tune would.

    python benchmarks/memorize.py MODEL ROWS.jsonl [ROWS.jsonl ...] --output DIR [--epochs 80] [--lr 3e-3]

Full fine-tuning in fp32 with AdamW, batches of 8, until greedy decoding under teacher forcing gets every token of every answer.
"""

import argparse
import random

import torch
from datasets import Dataset, concatenate_datasets
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_unlearn import data
from peft_unlearn.model.logprobs import score


def memorize(model_name: str, rows: Dataset, output: str, *, epochs: int, lr: float, batch_size: int = 8, seed: int = 0) -> float:
    """Train and save; returns the share of label tokens that the last epoch got right."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model = AutoModelForCausalLM.from_pretrained(model_name, dtype=torch.float32).train()
    tokenized = data.tokenize(rows, tokenizer, model.config.max_position_embeddings, name="rows").rows.to_list()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    right = 0.0
    with tqdm(range(epochs), desc=f"Memorizing {len(tokenized)} rows") as bar:
        for epoch in bar:
            rng.shuffle(tokenized)
            correct = labels = 0
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - epoch / epochs)
            for start in range(0, len(tokenized), batch_size):
                batch = data.collate_rows(tokenized[start : start + batch_size], data.padding_id(tokenizer))
                scores = score(model, batch)
                (-scores.logps.sum() / scores.mask.sum()).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                correct += (scores.logits.argmax(-1) == batch["labels"][:, 1:][scores.mask]).sum().item()
                labels += scores.mask.sum().item()
            right = correct / labels
            bar.set_postfix_str(f"tokens right {right:.2%}")
            if right == 1:
                break
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return right


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--output", required=True)
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--lr", type=float, default=3e-3)
    options = parser.parse_args()
    sets = [data.load(path, name="rows") for path in options.rows]
    memorize(options.model, concatenate_datasets(sets), options.output, epochs=options.epochs, lr=options.lr)
