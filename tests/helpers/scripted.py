"""A model that says what it is told to, for as long as it may."""

from collections.abc import Mapping

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from peft_unlearn.data import tokenize


class Recites(LlamaForCausalLM):
    """Continues a beginning of one of `wholes`, through every end token, for as many tokens as it may."""

    def generate(self, input_ids, attention_mask, max_new_tokens, **arguments):
        found = []
        for ids, mask in zip(input_ids, attention_mask.bool(), strict=True):
            prompt = ids[mask].tolist()
            (rest,) = (whole[len(prompt) :] for whole in self.wholes if whole[: len(prompt)] == prompt)
            found.append([*ids.tolist(), *(rest * max_new_tokens)[:max_new_tokens]])
        return torch.tensor(found)


def reciter(tokenizer, wholes):
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1)
    model = Recites(config).eval()
    model.wholes = wholes
    return model


def asked(tokenizer, said: Mapping[str, str]) -> list[dict[str, list[int]]]:
    """Rows of question and answer."""
    rows = [{"question": question, "answer": answer} for question, answer in said.items()]
    return tokenize(Dataset.from_list(rows), tokenizer, 512, name="forget_dataset").rows.to_list()


def saying(tokenizer, said: Mapping[str, str]):
    """A model that answers each question so."""
    return reciter(tokenizer, [row["input_ids"] for row in asked(tokenizer, said)])
