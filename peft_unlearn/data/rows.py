"""What evaluation needs to know about tokenized rows: where the answer begins, where it ends, and how rows share a batch.

A row is `{"input_ids": [int], "labels": [int]}`, labels -100 on the prompt.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.turns import turn

Row = Mapping[str, Any]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids that are no text. `all_special_ids` alone misses turn ends such as Llama 3's <|eot_id|> in the base model's tokenizer.

    What ends a turn in the chat template is one too, also where the tokenizer takes it for an ordinary added token.
    """
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    end = turn(tokenizer).end_token
    return {*tokenizer.all_special_ids, *special, *([] if end is None else [end])}


def vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> list[int]:
    """Ids that are text, in order, of the `size` that a model has: no special tokens, and none that were added, such as a picture's place."""
    others = special_ids(tokenizer).union(tokenizer.added_tokens_decoder)
    return [token for token in range(min(len(tokenizer), size)) if token not in others]


def text(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    """Tokens as text without special tokens and outer white space."""
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def end_length(tokenizer: PreTrainedTokenizerBase, special: set[int], tokens: Sequence[int]) -> int:
    """Number of trailing tokens from the first special one on; white space after it counts: chat templates end a turn with a line break."""
    start = len(tokens)
    for position in reversed(range(len(tokens))):
        if tokens[position] in special:
            start = position
        elif text(tokenizer, [tokens[position]]):
            break
    return len(tokens) - start


def has_prompt(row: Row, special: set[int]) -> bool:
    """Whether a row has a prompt; plain text has none. Special tokens such as <s> are none, nor is a first token alone: nothing predicts it."""
    start = _start(row)
    return start > 1 and not special.issuperset(row["input_ids"][:start])


def _start(row: Row) -> int:
    """Where the labels begin."""
    return next((place for place, label in enumerate(row["labels"]) if label != IGNORE), len(row["labels"]))


def split(row: Row, special: set[int]) -> tuple[list[int], list[int]]:
    """Prompt and answer of a row, as tokens.

    The prompt is what stands before the first label, the answer the labels up to the next gap. A row without a prompt is cut in two: its first half
    is the prompt, the middle token included, and the rest the answer.
    """
    tokens, labels, start = list(row["input_ids"]), list(row["labels"]), _start(row)
    if not has_prompt(row, special):
        half = (len(tokens) + 1) // 2
        return tokens[:half], tokens[half:]
    stop = next((i for i in range(start, len(labels)) if labels[i] == IGNORE), len(labels))
    return tokens[:start], tokens[start:stop]


def answer_texts(tokenizer: PreTrainedTokenizerBase, rows: Iterable[Row]) -> list[str]:
    """The answers that the rows teach, as text without what ends them, special tokens and outer white space."""
    special, end_text = special_ids(tokenizer), turn(tokenizer).end_text.strip()
    answers = (split(row, special)[1] for row in rows)
    texts = (text(tokenizer, answer[: len(answer) - end_length(tokenizer, special, answer)]) for answer in answers)
    return [found.removesuffix(end_text).strip() for found in texts]


def evenly(total: int, count: int) -> list[int]:
    """`count` of `total` row numbers, evenly spaced (sets such as TOFU are sorted by author); all if there are fewer, or if count is 0."""
    return [i * total // count for i in range(count)] if 0 < count < total else list(range(total))


def batches(order: Iterable[int], batch_size: int, fits: Callable[[list[int]], bool]) -> Iterator[list[int]]:
    """Cut row numbers into batches of at most `batch_size`; a new one begins where `fits` says no (a row alone always fits)."""
    batch: list[int] = []
    for row in order:
        if batch and (len(batch) == batch_size or not fits([*batch, row])):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
