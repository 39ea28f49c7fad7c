"""Texts that a model writes itself: a retain set for those who have none, and what a run holds beside the user's rows."""

import logging
import re
import string
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.collating import padding_id
from peft_unlearn.data.templates import ASKED
from peft_unlearn.data.turns import turn
from peft_unlearn.data.unspaced import SPACELESS, pieces
from peft_unlearn.util.boundary import boundary

logger = logging.getLogger(__name__)

SHORTEST = 8  # tokens; shorter texts say nothing about what is to be kept
LONGEST_QUESTION = 48  # tokens
PHRASE = 8  # words in a row that a written text may not share with the forget set
DRAWS = 8  # texts drawn at most for each row asked for
# Of neutral texts: tokens at least, and the share of their words that no row of the run has. What is of the rows' kind is kept by rows.
NEUTRAL_SHORTEST, NEW = 24, 0.3
FEWEST = 0.25  # of the first texts drawn that must be neutral: a model that writes hardly any has learned little else than its rows

Written = dict[str, str]  # {"text": ...}, or {"question": ..., "answer": ...}


def write_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: int,
    *,
    max_length: int,
    seed: int,
    forget: Dataset,
    what: str,
    kept: Iterable[Mapping[str, Any]] = (),
    batch_size: int = 16,
) -> list[Written]:
    """Let the model write `rows` texts, sampled at temperature 1.

    A chat model writes what a user may ask, behind its template's beginning of a user turn (as Magpie does, arXiv 2406.08464), and its answer. Any
    other writes on from the BOS, or from a random capital letter where there is no BOS. A model that memorized the forget set writes it down among
    the rest, and keeping that would undo the forgetting: texts that share `PHRASE` words in a row with it are drawn anew, and so are those shorter
    than `SHORTEST` tokens.

    Args:
        model: in the view whose text is to be kept; its mode is restored.
        max_length: tokens a text. The cost is rows / batch_size * max_length forward steps.
        seed: decides the texts; the global random state is left as it was.
        forget: the tokenized forget set.
        what: the texts are for, in messages.
        kept: tokenized rows of the run that are not forgotten. With them only neutral texts count: of `NEUTRAL_SHORTEST` tokens or more, with a share
            of `NEW` of their words in no row of the run, and without a word that only the forget set has. Where less than `FEWEST` of the first
            `rows` texts are so, there are none.

    Returns:
        At most `rows` rows; fewer, with a warning, when the bound on draws (`DRAWS` * rows) is met.
    """
    forbidden, kept = _forget_phrases(forget, tokenizer), list(kept)
    neutral = Neutral(_words(forget, tokenizer), _words(kept, tokenizer)) if kept else None
    texts: list[Written] = []
    drawn, training = 0, model.training
    opening, end = _user_turn(tokenizer)
    devices = [model.device] if model.device.type == "cuda" else []
    model.eval()
    try:
        with torch.random.fork_rng(devices=devices), tqdm(total=rows, desc=f"Writing texts ({what})") as bar:
            torch.manual_seed(seed)
            while len(texts) < rows and drawn < DRAWS * rows:
                drawn += batch_size
                if end is None:
                    written = _written(model, tokenizer, max_length, batch_size)
                else:
                    written = _conversed(model, tokenizer, opening, end, max_length, batch_size)
                written = [row for row in written if _fits(" ".join(row.values()), forbidden, neutral, tokenizer)]
                texts += written[: rows - len(texts)]
                bar.update(len(texts) - bar.n)
                if neutral is not None and drawn >= rows and len(texts) < FEWEST * min(drawn, rows):
                    texts = []
                    break
    finally:
        model.train(training)
    if len(texts) < rows:
        logger.warning("%s: %d of %d texts written, the others were too short or too near to the rows.", what, len(texts), rows)
    return texts


def _user_turn(tokenizer: PreTrainedTokenizerBase) -> tuple[str, int | None]:
    """What a chat template writes before a user's text, and the token that ends a turn; None where it has no such token, or writes nothing."""
    end = turn(tokenizer).end_token
    if end is None:
        return "", None
    asked = tokenizer.apply_chat_template([{"role": "user", "content": ASKED}], tokenize=False, add_generation_prompt=True)
    opening = str(asked).partition(ASKED)[0]
    return opening, end if tokenizer(opening, add_special_tokens=False)["input_ids"] else None


def _written(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int, batch_size: int) -> list[Written]:
    """A batch of sampled texts."""
    starts = _starts(tokenizer, batch_size)
    tokens = _sampled(model, tokenizer, starts, torch.ones_like(starts), max_length - 1, None)
    texts = tokenizer.batch_decode(torch.cat([starts, tokens], 1), skip_special_tokens=True)
    return [{"text": text.strip()} for text in texts if text.strip()]


def _conversed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, opening: str, end: int, max_length: int, batch_size: int
) -> list[Written]:
    """A batch of sampled questions that came to an end, and sampled answers to them."""
    starts = torch.tensor([tokenizer(opening, add_special_tokens=False)["input_ids"]] * batch_size)
    asked = _sampled(model, tokenizer, starts, torch.ones_like(starts), min(LONGEST_QUESTION, max_length), end).tolist()
    texts = [tokenizer.decode(row[: row.index(end)], skip_special_tokens=True).strip() for row in asked if end in row]
    questions = [text for text in texts if text]
    if not questions:
        return []
    conversations = [[{"role": "user", "content": question}] for question in questions]
    prompts = [
        tokenizer(str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)), add_special_tokens=False)[
            "input_ids"
        ]
        for turns in conversations
    ]
    width = max(map(len, prompts))
    padded = torch.tensor([[padding_id(tokenizer)] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    said = _sampled(model, tokenizer, padded, mask, max(SHORTEST, max_length - width), end).tolist()
    answers = [tokenizer.decode(row[: row.index(end)] if end in row else row, skip_special_tokens=True).strip() for row in said]
    return [{"question": question, "answer": answer} for question, answer in zip(questions, answers, strict=True) if answer]


def _sampled(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, starts: Tensor, mask: Tensor, length: int, end: int | None
) -> Tensor:
    """Tokens sampled behind starts, (B, S) -> (B, at most `length`).

    Raises:
        UserError: the model's own code fails while it writes.
    """
    with boundary("model_name_or_path: the base cannot write texts", "take another base"):
        tokens: Tensor = model.generate(
            input_ids=starts.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=length,
            do_sample=True,
            # the model's own generation_config must not narrow what it writes
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            pad_token_id=padding_id(tokenizer),
            **({} if end is None else {"eos_token_id": end}),
        )
    return tokens[:, starts.shape[1] :].cpu()


class Neutral(NamedTuple):
    """Words of the forget set, and of all other rows of a run."""

    forget: set[str]
    kept: set[str]

    def __call__(self, text: str) -> bool:
        """Whether a text is about something else than the rows."""
        words = _bare(text)
        new = sum(word not in self.forget and word not in self.kept for word in words)
        return (self.forget - self.kept).isdisjoint(words) and new >= NEW * len(words)


def _fits(text: str, forbidden: dict[int, set[tuple[str, ...]]], neutral: Neutral | None, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text is long enough and nothing of the forget set's, and neutral where that is asked."""
    length = len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    if length < SHORTEST or (neutral is not None and (length < NEUTRAL_SHORTEST or not neutral(text))):
        return False
    words = pieces(text)
    return all(phrases.isdisjoint(_phrases(words, length)) for length, phrases in forbidden.items())


def _words(rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> set[str]:
    return {word for row in rows for word in _bare(str(tokenizer.decode(row["input_ids"], skip_special_tokens=True)))}


def _bare(text: str) -> list[str]:
    """Words of three letters or more, in small letters; single characters of scripts without spaces."""
    return re.findall(rf"[{SPACELESS}]|[^\W\d_{SPACELESS}]{{3,}}", text.lower())


def _starts(tokenizer: PreTrainedTokenizerBase, batch_size: int) -> Tensor:
    """First tokens, (batch_size, 1): the BOS, or else random capital letters, with which most texts begin."""
    if tokenizer.bos_token_id is not None:
        return torch.full((batch_size, 1), tokenizer.bos_token_id)
    letters = [string.ascii_uppercase[place] for place in torch.randint(len(string.ascii_uppercase), (batch_size,)).tolist()]
    return torch.tensor([ids[:1] for ids in tokenizer(letters, add_special_tokens=False)["input_ids"]])


def _phrases(words: list[str], length: int) -> set[tuple[str, ...]]:
    """Every run of `length` words."""
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def _forget_phrases(forget: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[int, set[tuple[str, ...]]]:
    """Phrases of the forget rows by their length: `PHRASE` words, or a whole row that has fewer.

    Each holds a word of the completion: a prompt's own phrases, such as a chat template's system turn, are no secret.
    """
    phrases: dict[int, set[tuple[str, ...]]] = {}
    for row in forget:
        start = sum(label == -100 for label in row["labels"])
        prompt, whole = tokenizer.batch_decode([row["input_ids"][:start], row["input_ids"]], skip_special_tokens=True)
        words = pieces(whole)[max(0, len(pieces(prompt)) + 1 - PHRASE) :]
        length = min(PHRASE, len(words))
        phrases.setdefault(length, set()).update(_phrases(words, length))
    return phrases
