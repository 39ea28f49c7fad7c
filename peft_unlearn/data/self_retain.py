"""A retain set for those who have none: text that the base model writes itself."""

import logging
import string

import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.collating import padding_id
from peft_unlearn.data.unspaced import pieces
from peft_unlearn.util.errors import UserError

logger = logging.getLogger(__name__)

SHORTEST = 8  # tokens; shorter texts say nothing about what is to be kept
PHRASE = 8  # words in a row that a written text may not share with the forget set
DRAWS = 8  # texts drawn at most for each row asked for


def write_retain_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: int,
    *,
    max_length: int,
    seed: int,
    forget: Dataset,
    batch_size: int = 16,
) -> Dataset:
    """Let the model write `rows` texts, sampled at temperature 1 from the BOS, or from a random capital letter where there is no BOS.

    A model that memorized the forget set writes it down among the rest, and keeping that would undo the forgetting: texts that share
    `PHRASE` words in a row with it are drawn anew, and so are those shorter than `SHORTEST` tokens.

    Args:
        model: in the view whose text is to be kept; its mode is restored.
        max_length: tokens a text. The cost is rows / batch_size * max_length forward steps.
        seed: decides the texts; the global random state is left as it was.
        forget: the tokenized forget set.

    Returns:
        At most `rows` texts in a column `text`; fewer, with a warning, when the bound on draws (`DRAWS` * rows) is met.

    Raises:
        UserError: no text could be kept.
    """
    forbidden = _forget_phrases(forget, tokenizer)
    texts: list[str] = []
    drawn, training = 0, model.training
    devices = [model.device] if model.device.type == "cuda" else []
    model.eval()
    try:
        with torch.random.fork_rng(devices=devices), tqdm(total=rows, desc="Writing a retain set") as bar:
            torch.manual_seed(seed)
            while len(texts) < rows and drawn < DRAWS * rows:
                drawn += batch_size
                written = [text for text in _write(model, tokenizer, max_length, batch_size) if not _shares(text, forbidden)]
                texts += written[: rows - len(texts)]
                bar.update(len(texts) - bar.n)
    finally:
        model.train(training)
    if not texts:
        raise UserError("retain_dataset: the model writes no text of its own that could stand in for one, give a retain_dataset.")
    if len(texts) < rows:
        logger.warning("retain_dataset: %d of %d texts written, the others were empty or from the forget set.", len(texts), rows)
    return Dataset.from_dict({"text": texts})


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int, batch_size: int) -> list[str]:
    """A batch of sampled texts, without those that are too short."""
    starts = _starts(tokenizer, batch_size).to(model.device)
    tokens = model.generate(
        input_ids=starts,
        attention_mask=torch.ones_like(starts),
        max_new_tokens=max_length - 1,
        do_sample=True,
        # the model's own generation_config must not narrow what it writes
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        pad_token_id=padding_id(tokenizer),
    )
    texts = [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
    return [text for text, length in zip(texts, lengths, strict=True) if length >= SHORTEST]


def _starts(tokenizer: PreTrainedTokenizerBase, batch_size: int) -> torch.Tensor:
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


def _shares(text: str, forbidden: dict[int, set[tuple[str, ...]]]) -> bool:
    words = pieces(text)
    return any(not phrases.isdisjoint(_phrases(words, length)) for length, phrases in forbidden.items())
