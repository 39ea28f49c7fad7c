"""Rows of text to rows of tokens and labels."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any, NamedTuple

from datasets import Dataset, Features, List, Value
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from peft_unlearn.data import formats, templates
from peft_unlearn.util.errors import UserError

logger = logging.getLogger(__name__)

FORGET = "forget_dataset"
TINY = 16  # tokens of a text below which its second half, which the first is to bring back, is a word or two
OFTEN = 0.1  # of a set's texts: a book has a heading here and there

FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32")), "source": Value("int64"), "length": Value("int64")})


class Tokenized(NamedTuple):
    """Tokenized rows in source order (`input_ids`, `labels`; a long text is several), how many of them were cut at max_length, and the number
    of the row that each was made of, from 0.
    """

    rows: Dataset
    truncated: int
    sources: list[int]


def tokenize(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    name: str,
    template_arguments: Mapping[str, Any] | None = None,
) -> Tokenized:
    """Tokenize a set of any format of `peft_unlearn.data.formats`.

    Plain rows get the BOS that the tokenizer adds, once, and one EOS if the tokenizer has one; chat rows are what the chat template writes.
    The end is part of the labels. The prompt (of a text: its first token, which nothing predicts) has label -100. The completion begins
    where the tokens of prompt and completion leave those of the prompt alone: a BPE that glues a prompt's last space to the first word of
    the answer would hide that word otherwise.

    What is longer than `max_length` is cut where there is a prompt, and split into several rows where there is none. Both are logged.

    Args:
        dataset: rows as `load` returns them.
        max_length: tokens a row, special ones included; at most the model's context.
        name: the recipe's key for this set, for messages.
        template_arguments: variables of the chat template, such as {"enable_thinking": False}.

    Raises:
        UserError: a row that cannot be split, has nothing to predict, or loses its whole completion to max_length; messages without a chat
            template.
    """
    dataset, columns, chat = _checked(dataset, tokenizer, name)
    read, unwritten = (*columns, *formats.beside(dataset)) if chat else columns, dict[str, list[int]]()

    def encode(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        texts = _rendered(formats.unbatch(batch, read), indices, tokenizer, name, template_arguments or {}, unwritten)
        prompts, wholes = (_token_ids(tokenizer, list(side), special=not chat) for side in zip(*texts, strict=True))
        encoded: dict[str, list[Any]] = {key: [] for key in FEATURES}
        for index, prompt, whole in zip(indices, prompts, wholes, strict=True):
            start = _start(prompt, whole, max_length, f"{name}: row {index + 1}")
            if not chat and tokenizer.eos_token_id is not None:
                whole = [*whole, tokenizer.eos_token_id]
            encoded["input_ids"] += (pieces := split(whole, prompt, max_length) if columns == ("text",) else [whole[:max_length]])
            encoded["labels"] += [[-100] * start + piece[start:] for piece in pieces]
            encoded["source"] += [index] * len(pieces)
            encoded["length"] += [len(whole)] if len(pieces) == 1 else map(len, pieces)
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
        desc=f"Tokenizing {name}",
    )
    _warn(unwritten, name)
    if columns == ("text",):
        _tell_split(tokens, len(dataset), max_length, name)
    cut = _tell_cut(tokens["length"][:], tokenizer, max_length, name)
    return Tokenized(tokens.select_columns(["input_ids", "labels"]), cut, tokens["source"][:])


def _checked(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, name: str) -> tuple[Dataset, tuple[str, ...], bool]:
    """The set in a format, its columns, and whether the chat template writes its rows."""
    dataset = formats.settled(dataset, name)
    columns = formats.check(dataset, name)
    chat = formats.is_chat(next(formats.rows(dataset, columns)), tokenizer)
    if chat and not tokenizer.chat_template:
        raise UserError(f"{name}: its rows are conversations and the tokenizer has no chat template, write prompt and completion as text.")
    return dataset, columns, chat


def _warn(unwritten: Mapping[str, list[int]], name: str) -> None:
    for part, rows in unwritten.items():
        logger.warning("%s: the chat template does not write all of %s of %d rows, the first is row %d.", name, part, len(rows), rows[0])


def _rendered(
    rows: Iterable[dict[str, Any]],
    indices: list[int],
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    template_arguments: Mapping[str, Any],
    unwritten: dict[str, list[int]],
) -> list[tuple[str, str]]:
    """The prompt of each row, and prompt and completion together, as text; `unwritten` gets what the template left out, and of which rows."""
    texts = []
    for index, row in zip(indices, rows, strict=True):
        try:
            texts.append(formats.render(row, tokenizer, template_arguments))
        except TemplateError as error:
            raise UserError(f"{name}: row {index + 1}: the chat template refuses its turns ({error}).") from error
        turns = formats.conversation(row, tokenizer)
        for part in templates.unwritten(turns, texts[-1][1], row.get("tools")) if turns else ():
            if part == "tool_calls" and turns[-1].get("tool_calls"):
                raise UserError(f"{name}: row {index + 1}: the chat template writes no tool_calls, write the answer as text.")
            unwritten.setdefault(part, []).append(index + 1)
    return texts


def _start(prompt: list[int], whole: list[int], max_length: int, row: str) -> int:
    """The first token that has a label: where prompt and completion together leave the tokens of the prompt alone."""
    start = max(1, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False))))
    if start >= len(whole):
        raise UserError(f"{row} has no token to predict, write a longer text or take the row out.")
    if start >= max_length:
        raise UserError(f"{row}: max_length {max_length} cuts its whole completion away, write more than {start} or shorten the prompt.")
    return start


def _tell_cut(lengths: list[int], tokenizer: PreTrainedTokenizerBase, max_length: int, name: str) -> int:
    """How many rows were cut, given how long all are uncut; with what is lost and what to write."""
    long = [length for length in lengths if length > max_length]
    if long:
        mend = f"write max_length: {max(long)}, or split" if max(long) <= tokenizer.model_max_length else "split"
        logger.warning(
            "Warning: %s: %d of %d rows are longer than max_length %d and were cut: %s of %s tokens are left out, and what is left out is %s; "
            "%s those rows.",
            name,
            len(long),
            len(lengths),
            max_length,
            f"{sum(long) - max_length * len(long):,}",
            f"{sum(lengths):,}",
            "not forgotten" if name == FORGET else "not read",
            mend,
        )
    return len(long)


def _tell_split(tokens: Dataset, texts: int, max_length: int, name: str) -> None:
    """How many texts were split and into what, and how many are too short to say much."""
    pieces = [count for count in Counter(tokens["source"]).values() if count > 1]
    if pieces:
        logger.info(
            "%s: %d of %d texts are longer than max_length %d and were split into %s pieces of at most %d tokens.",
            name,
            len(pieces),
            texts,
            max_length,
            f"{sum(pieces):,}",
            max_length,
        )
    tiny = sum(length < TINY for length in tokens["length"])
    if tiny > OFTEN * len(tokens):
        logger.warning(
            "Warning: %s: %d of %d texts have fewer than %d tokens, and little can be learned or forgotten of a few words; write longer ones, "
            "or, of a file of text, sample_by: document.",
            name,
            tiny,
            len(tokens),
            TINY,
        )


def split(tokens: list[int], lead: list[int], max_length: int) -> list[list[int]]:
    """A text's tokens as consecutive pieces of about equal length, at most `max_length`.

    Each piece begins with `lead`, the special tokens that the tokenizer puts before a text, or, where it puts none, with the last token of the
    piece before. So a piece's beginning is its context, and every token of the text after its own beginning is learnt in exactly one piece.
    """
    start = max(1, len(lead))
    pieces = math.ceil((len(tokens) - start) / (max_length - start))
    size = math.ceil((len(tokens) - start) / pieces)
    return [[*(lead or tokens[i - 1 : i]), *tokens[i : i + size]] for i in range(start, len(tokens), size)]


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, special: bool) -> list[list[int]]:
    """Token ids without an EOS that the tokenizer adds, and with one BOS where the text spells it out as well."""
    batch: Any = tokenizer(texts, add_special_tokens=special, return_attention_mask=False, return_token_type_ids=False, verbose=False)
    found: list[list[int]] = batch["input_ids"]
    if not special:
        return found
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return [ids[bos is not None and ids[:2] == [bos, bos] : len(ids) - (eos is not None and ids[-1:] == [eos])] for ids in found]
