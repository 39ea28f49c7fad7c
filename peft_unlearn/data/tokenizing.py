"""Rows of text to rows of tokens and labels."""

import logging
from itertools import takewhile
from typing import Any, NamedTuple

from datasets import Dataset, Features, List, Value
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from peft_unlearn.data import formats
from peft_unlearn.errors import UserError

logger = logging.getLogger(__name__)

FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32")), "cut": Value("bool")})


class Tokenized(NamedTuple):
    """Tokenised rows in source order (`input_ids`, `labels`), and how many of them were cut at max_length."""

    rows: Dataset
    truncated: int


def tokenize(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, *, name: str) -> Tokenized:
    """Tokenise a set of any format of `peft_unlearn.data.formats`.

    Plain rows get the BOS that the tokenizer adds, once, and one EOS if the tokenizer has one; chat rows are what the chat template writes.
    The end is part of the labels. The prompt (of a text: its first token, which nothing predicts) has label -100. The completion begins
    where the tokens of prompt and completion leave those of the prompt alone: a BPE that glues a prompt's last space to the first word of
    the answer would hide that word otherwise.

    Args:
        dataset: rows as `load` returns them.
        max_length: tokens a row, special ones included; at most the model's context.
        name: the recipe's key for this set, for messages.

    Raises:
        UserError: a row that cannot be split, has nothing to predict, or loses its whole completion to max_length; messages without a chat
            template.
    """
    columns = formats.check(dataset, name)
    chat = formats.is_chat(next(formats.rows(dataset, columns)), tokenizer)
    if chat and not tokenizer.chat_template:
        raise UserError(f"{name}: its rows are conversations and the tokenizer has no chat template, write prompt and completion as text.")

    def encode(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        texts = []
        for index, row in zip(indices, formats.unbatch(batch, columns), strict=True):
            try:
                texts.append(formats.render(row, tokenizer))
            except TemplateError as error:
                raise UserError(f"{name}: row {index + 1}: the chat template refuses its turns ({error}).") from error
        prompts, wholes = (_token_ids(tokenizer, list(side), special=not chat) for side in zip(*texts, strict=True))
        encoded: dict[str, list] = {key: [] for key in FEATURES}
        for index, prompt, whole in zip(indices, prompts, wholes, strict=True):
            start = max(1, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False))))
            if start >= len(whole):
                raise UserError(f"{name}: row {index + 1} has no token to predict, write a longer text or take the row out.")
            if start >= max_length:
                raise UserError(
                    f"{name}: row {index + 1}: max_length {max_length} cuts its whole completion away, "
                    f"write more than {start} or shorten the prompt."
                )
            if not chat and tokenizer.eos_token_id is not None:
                whole = [*whole, tokenizer.eos_token_id]
            encoded["input_ids"].append(whole[:max_length])
            encoded["labels"].append([-100] * start + whole[start:max_length])
            encoded["cut"].append(len(whole) > max_length)
        return encoded

    tokens = dataset.with_format(None).map(
        encode,
        batched=True,
        batch_size=formats.ROWS_PER_BATCH,
        with_indices=True,
        remove_columns=dataset.column_names,
        features=FEATURES,
        keep_in_memory=True,  # map would leave the tokens of a set from the Hub in a cache
        load_from_cache_file=False,
        desc=f"Tokenising {name}",
    )
    truncated = sum(tokens["cut"])
    if truncated:
        logger.warning("%s: %d of %d rows are longer than max_length %d and were cut.", name, truncated, len(tokens), max_length)
    return Tokenized(tokens.remove_columns("cut"), truncated)


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, special: bool) -> list[list[int]]:
    """Token ids without an EOS that the tokenizer adds, and with one BOS where the text spells it out as well."""
    batch: Any = tokenizer(texts, add_special_tokens=special, return_attention_mask=False, return_token_type_ids=False, verbose=False)
    if not special:
        return batch["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return [
        ids[bos is not None and ids[:2] == [bos, bos] : len(ids) - (eos is not None and ids[-1:] == [eos])] for ids in batch["input_ids"]
    ]
