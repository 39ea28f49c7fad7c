"""Tiny rows to evaluate, over the words w0 ... w63, and what a model says of one of them alone, from the definition."""

import random

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END = 2


def tokenizer(padding_side: str = "right") -> PreTrainedTokenizerFast:
    splitting = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w3"))
    splitting.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=splitting, pad_token="w0", bos_token="w1", eos_token=f"w{END}", padding_side=padding_side
    )


def row(prompt: list[int], answer: list[int]) -> dict[str, list[int]]:
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def ragged(n: int, seed: int) -> list[dict[str, list[int]]]:
    rng = random.Random(seed)
    prompts, answers = ([[rng.randrange(3, 64) for _ in range(rng.randrange(1, longest))] for _ in range(n)] for longest in (9, 13))
    return [row([1, *prompt], [*answer, END]) for prompt, answer in zip(prompts, answers, strict=True)]


def text(tokens: list[int]) -> dict[str, list[int]]:
    return {"input_ids": tokens, "labels": list(tokens)}


DEGENERATE = [
    row([1, 7, 9], [END]),  # an empty answer
    row([1, 7], [8]),  # one token, cut
    row([1, 7], []),  # nothing to predict
    row([1, 5], [9] * 12 + [END]),
    row([1, 5], [33, END]),
    text([40]),
    text([1, 41, END]),
    text([6, 7, 8, 9, 10, 11, 12]),
]
ROWS = ragged(7, 3) + DEGENERATE


def plain(model, row) -> list[tuple[np.ndarray, int]]:
    """(logits in float64, target) of every label of a row alone, without padding; the first token has no prediction."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double().numpy()
    return [(logits[t - 1], row["labels"][t]) for t in range(1, len(row["labels"])) if row["labels"][t] != -100]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    top = max(logits)
    return logits - top - np.log(sum(np.exp(x - top) for x in logits))
