"""Answers that say nothing: empty ones and loops.

A model that only repeats itself has lost its language, and a low score of it means little. Fluent nonsense is not seen here; the probability of the
retain set sees it.
"""

import re

from peft_unlearn.data.unspaced import SPACELESS
from peft_unlearn.util.registry import metric

# Distinct n-grams / all n-grams, below which an answer is a loop: more than half of it was there before. The lowest of the 4 000 answers of
# TOFU has 0.76. A sentence said twice passes, said three times it does not.
DISTINCT = 0.5
# With fewer words a repetition may be emphasis ("No, no, no.").
MIN_WORDS = 6
# Words longer than this on average are a loop without spaces or a script without them, and are read by characters; numbers are shorter.
MAX_WORD = 24
# Pairs of letters recur in any long text, four in a row far less: 4 000 characters of stories without their spaces still have 0.57.
CHARACTERS = 4
MIN_CHARACTERS = 3 * MIN_WORDS  # of a text that is mostly in a script without spaces
_SPACELESS = re.compile(f"[{SPACELESS}]")


@metric(needs="text", direction="never_seen", paper="1510.03055")
def degenerate(answer: str) -> float:
    """Share of answers that are empty or repeat themselves; high means a broken model.

    1 if the answer is empty or a loop, else 0. A loop has distinct-2 = different word bigrams / word bigrams below `DISTINCT`, or, where words are
    longer than `MAX_WORD` on average or most characters are of a script without spaces, so few different 4-grams of characters. Source of
    distinct-n: Li et al., arXiv 1510.03055.
    """
    words = answer.lower().split()
    characters = "".join(words)
    if not words or (len(words) >= MIN_WORDS and distinct(words, 2) < DISTINCT):
        return 1.0
    unspaced = 2 * len(_SPACELESS.findall(characters)) > len(characters) >= MIN_CHARACTERS
    return float((unspaced or len(characters) > MAX_WORD * len(words)) and distinct(characters, CHARACTERS) < DISTINCT)


def distinct(units: list[str] | str, n: int) -> float:
    """Different n-grams of `units` (words, or the characters of a string) / all of them; there must be at least n units."""
    grams = [tuple(units[i : i + n]) for i in range(len(units) - n + 1)]
    return len(set(grams)) / len(grams)
