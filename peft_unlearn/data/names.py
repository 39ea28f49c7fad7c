"""What in a text may be a name: of a person, a place, a work, or an address or number that stands for one."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

_WORD = re.compile(r"[^\W_]+(?:[-'’@._\\]+[^\W_]+)*")
_INSIDE = re.compile(r"(?<=[\w,;)'’] )[^\W\d_][\w’'-]+")  # the word before it has not ended a sentence
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0eff\u1000-\u109f]+")  # kana, Han, Hangul; Thai, Lao, Burmese
_POSSESSIVE = re.compile(r"['’]s$")

GRAM = 2  # characters of a name where words are not told apart
CODE = 5  # characters of a word with a digit, from which on it is no year and no count


def names(texts: Sequence[str]) -> list[set[str]]:
    """The names in each text.

    A word is one if somewhere among the texts it has a capital inside a sentence, or if it has a digit or an @ and is long. Letters of scripts
    without capitals give their words, or pairs of characters where no spaces part words: most are no names, which only counting can tell.
    Two words with capitals side by side are a name as well: many are called Ann, and few Ann Lee.
    """
    capital = {_POSSESSIVE.sub("", word) for text in texts for word in _INSIDE.findall(text) if word[0].isupper()}
    said = [list(_words(text)) for text in texts]
    single = {word for word in set().union(*said) if word in capital or _is_code(word) or _has_no_case(word)}
    return [
        single.intersection(words) | {f"{one} {other}" for one, other in pairwise(words) if one in capital and other in capital}
        for words in said
    ]


def _words(text: str) -> Iterator[str]:
    for run in _UNSPACED.findall(text):
        yield from (run[start : start + GRAM] for start in range(max(1, len(run) - GRAM + 1)))
    yield from (_POSSESSIVE.sub("", word) for word in _WORD.findall(_UNSPACED.sub(" ", text)))


def _is_code(word: str) -> bool:
    return len(word) >= CODE and ("@" in word or any(map(str.isdigit, word)))


def _has_no_case(word: str) -> bool:
    return word.lower() == word.upper() and any(map(str.isalpha, word))
