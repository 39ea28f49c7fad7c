"""What a word is, in any script: for every metric that compares or counts words."""

import re
import unicodedata

from peft_unlearn.data.unspaced import SPACELESS

_ASCII = re.compile("[a-z0-9]+")
_SPACELESS = re.compile(f"[{SPACELESS}]")


def words(text: str) -> list[str]:
    """The words of a text in their order, in lower case and not stemmed.

    A word is a run of letters and digits with the marks on them (accents, vowel signs); in scripts without spaces each character is one. What
    separates words in ASCII is what rouge-score takes for it: everything but a-z and 0-9. Compatible characters are one (NFKC), and invisible
    ones (a soft hyphen, a byte order mark) are none.
    """
    if text.isascii():  # the same, twenty times as fast
        return _ASCII.findall(text.lower())
    found: list[str] = []
    open_word = alone = False  # whether a word is going on, and whether it takes marks only
    for char in unicodedata.normalize("NFKC", text).lower():
        category = unicodedata.category(char)
        if category == "Cf":
            continue
        if category[0] not in "LNM":
            open_word = False
            continue
        spaceless = _SPACELESS.match(char) is not None
        if open_word and (category[0] == "M" or not (alone or spaceless)):
            found[-1] += char
        elif category[0] != "M":
            found.append(char)
            open_word, alone = True, spaceless
    return found
