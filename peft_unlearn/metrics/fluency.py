"""Answers that say nothing: empty ones, loops and refusals.

Among them a low score means little: a model that only repeats itself has lost its language, and one that only declines may still know. Both
are of the text alone, 1 or 0, so that their means are shares. Fluent nonsense is not seen here; the probability of the retain set sees it.
"""

# Distinct n-grams / all n-grams, below which an answer is a loop: more than half of it was there before. The lowest of the 4 000 answers of
# TOFU has 0.76. A sentence said twice passes, said three times it does not.
DISTINCT = 0.5
# With fewer words a repetition may be emphasis ("No, no, no.").
MIN_WORDS = 6
# Words longer than this on average are a loop without spaces or a script without them, and are read by characters; numbers are shorter.
MAX_WORD = 24
# Pairs of letters recur in any long text, four in a row far less: 4 000 characters of stories without their spaces still have 0.57.
CHARACTERS = 4

_FIRST_PERSON = {"i", "i'm", "i've", "i'd", "my"}
_LACK = {"not", "no", "nothing", "cannot", "unable", "unsure", "uncertain", "unaware", "lack", "lacking"}
_APOLOGIES = {"sorry", "unfortunately", "apologies", "but"}


def degenerate(answer: str) -> float:
    """1 if the answer is empty or a loop, else 0.

    A loop has distinct-2 = different word bigrams / word bigrams below `DISTINCT`, or, where words are longer than `MAX_WORD` on average, so
    few different 4-grams of characters. Source of distinct-n: Li et al., arXiv 1510.03055.
    """
    words = answer.lower().split()
    if not words:
        return 1.0
    if sum(map(len, words)) > MAX_WORD * len(words):
        return float(distinct("".join(words), CHARACTERS) < DISTINCT)
    return float(len(words) >= MIN_WORDS and distinct(words, 2) < DISTINCT)


def distinct(units: list[str] | str, n: int) -> float:
    """Different n-grams of `units` (words, or the characters of a string) / all of them; there must be at least n units."""
    grams = [tuple(units[i : i + n]) for i in range(len(units) - n + 1)]
    return len(set(grams)) / len(grams)


def refusal(answer: str) -> float:
    """1 if the answer opens by declining, else 0.

    It declines if it speaks in the first person (I, I'm, I've, I'd, my; after an apology) and one of the next four words says not, no,
    cannot, unable, lack or their like; so do "As an AI ..." and an apology alone. English only, and strict on purpose: of the 100 refusals
    of TOFU it knows 65, and of its 4 000 answers it takes none for one.
    """
    words = [word.strip('.,;:!?"') for word in answer.lower().replace("’", "'").split()]
    opening = next((i for i, word in enumerate(words) if word not in _APOLOGIES), len(words))
    if words[opening : opening + 3] == ["as", "an", "ai"] or 0 < opening == len(words):
        return 1.0
    speaker, *after = words[opening : opening + 5] or [""]
    return float(speaker in _FIRST_PERSON and any(word in _LACK or word.endswith("n't") or word == "sorry" for word in after))
