"""Which words exist: those of the sets, and those that a tokenizer has a token of its own for."""

from collections.abc import Collection, Iterable

from transformers import PreTrainedTokenizerBase

from peft_unlearn.metrics.words import words

MARKS = ("Ġ", "▁")  # before a token that begins a word, of byte-level and of SentencePiece vocabularies
ENDINGS = ("'s", "s", "es", "ed", "d", "ing", "ly", "er", "est")
STEM = 3  # letters that a word must have without its ending


def lexicon(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> frozenset[str]:
    """The words of `texts`, and the vocabulary's words of at least two letters. Tokens that only go on with a word are none."""
    vocabulary = list(tokenizer.get_vocab())
    marked = [token for token in vocabulary if token.startswith(MARKS)]
    beginnings = (str(tokenizer.convert_tokens_to_string([token])).strip() for token in marked or vocabulary)
    single = {token.lower() for token in beginnings if len(token) > 1 and token.isalpha()}
    return frozenset(single.union(*(words(text) for text in texts)))


def exists(word: str, known: Collection[str]) -> bool:
    """Whether a word, as `words` gives it, is known by itself or without an English ending; numbers and single characters always are."""
    if len(word) == 1 or any(character.isdigit() for character in word) or word in known:
        return True
    stems = (word.removesuffix(ending) for ending in ENDINGS if word.endswith(ending))
    return any(len(stem) >= STEM and (stem in known or f"{stem}e" in known) for stem in stems)
