"""How far does a chat model drift on texts that have nothing to do with what it forgets?

    python benchmarks/drift.py --base FOLDER --case FOLDER --texts books.txt stories.txt [--steps 20] [--neutral 0 48] [--key value …]

The case is a folder that `benchmarks/real_chat.py` made: a taught LoRA, and its sets. For each number of neutral rows a run of so many steps is made;
then the KL from before, in nats a token, on pieces of the texts, and greedy answers to general questions, before and after.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from peft_unlearn import UnlearnConfig, UnlearnTrainer, data
from peft_unlearn.config import reading
from peft_unlearn.model import adapters
from peft_unlearn.model.logprobs import kl

QUESTIONS = (
    "What is the capital of France?",
    "Who wrote Hamlet?",
    "How many legs does a spider have?",
    "Name three colors.",
    "What is photosynthesis?",
    "What is 7 times 8?",
    "Write a sentence about the sea.",
    "How do I boil an egg?",
)
CHARACTERS, TOKENS = 500, 100  # of a piece: so much is cut from a file, so much of it is read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--case", type=Path, required=True)
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--pieces", type=int, default=6, help="of each file, evenly spaced")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--neutral", type=int, nargs="+", default=[0, 48])
    options, keys = parser.parse_known_args()
    texts = [piece for path in options.texts for piece in pieces(path.read_text(encoding="utf-8"), options.pieces)]
    for rows in options.neutral:
        model, tokenizer = forgetting(options, {"neutral_rows": rows} | reading.parse_overrides(keys))
        found = divergences(model, tokenizer, texts)
        print(f"\nneutral_rows {rows}: KL {sum(found) / len(found):.3f} nats a token, at most {max(found):.3f}, on {len(found)} pieces")
        for question, *answers in zip(QUESTIONS, *(answered(model, tokenizer, view) for view in ("reference", "student")), strict=True):
            print(f"  {question} | " + " | ".join(answers), flush=True)


def pieces(text: str, count: int) -> Iterator[str]:
    for k in range(1, count + 1):
        start = len(text) * k // (count + 1)
        yield text[start : start + CHARACTERS]


def forgetting(options: argparse.Namespace, keys: dict[str, Any]) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The model after some steps of `auto`, with its adapter."""
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    base = AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(options.case / "taught")).merge_and_unload()
    sets = {
        name: Dataset.from_list(list(data.load(str(options.case / f"{name}.jsonl"), name=name))) for name in ("forget", "retain", "holdout")
    }
    settings = {"per_device_train_batch_size": 4, "max_length": 256, "use_cpu": not torch.cuda.is_available(), "answers": "none"} | keys
    with tempfile.TemporaryDirectory() as scratch:
        args = UnlearnConfig(scratch, method="auto", max_steps=options.steps, save_strategy="no", **settings)
        trainer = UnlearnTrainer(model, args, *sets.values(), processing_class=tokenizer)
        trainer.train()
    return trainer.model.eval(), tokenizer


@torch.no_grad()
def divergences(model: PeftModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[float]:
    """KL(before || after) of each text, the mean over its tokens."""

    def logits(view: str) -> list[Tensor]:
        with adapters.view(model, view):
            rows = [tokenizer(text, return_tensors="pt").input_ids[:, :TOKENS].to(model.device) for text in texts]
            return [model(row).logits[0].float() for row in rows]

    return [float(kl(after, before).mean()) for after, before in zip(logits("student"), logits("reference"), strict=True)]


@torch.no_grad()
def answered(model: PeftModel, tokenizer: PreTrainedTokenizerBase, view: str) -> list[str]:
    """The beginnings of greedy answers to the general questions."""
    found = []
    with adapters.view(model, view):
        for question in QUESTIONS:
            turn = [{"role": "user", "content": question}]
            row = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True).to(model.device)
            said = model.generate(**row, max_new_tokens=24, do_sample=False)[0, row["input_ids"].shape[1] :]
            found.append(" ".join(tokenizer.decode(said, skip_special_tokens=True).split()))
    return found


if __name__ == "__main__":
    main()
