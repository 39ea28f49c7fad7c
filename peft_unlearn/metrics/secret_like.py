"""Strings that look like secrets: what one would look for in an answer first, because nobody can guess it and it harms whom it belongs to."""

import re
import unicodedata
from collections.abc import Callable

MONTHS = (
    "jan(?:uary|uar|vier)?|feb(?:ruary|ruar)?|f[ée]vr(?:ier)?|mar(?:ch|s|zo)?|märz|apr(?:il)?|avril|abril|ma[yi]|mayo|june?|juni|juin|junio"
    "|july?|juli|juillet|julio|aug(?:ust)?|août|agosto|sept?(?:ember|embre|iembre)?|o[ck]t(?:ober|obre|ubre)?|nov(?:ember|embre|iembre)?"
    "|de[cz](?:ember)?|d[ée]cembre|diciembre|enero|febrero"
)
DAY, MONTH, YEAR = "[0-3]?[0-9]", "[01]?[0-9]", "[12][0-9]{3}"
NTH = rf"{DAY}(?:st|nd|rd|th|\.)?"
# A path ends before the punctuation of its sentence, in scripts that put no space after it as well.
PATH = r"(?::[0-9]+)?/[^\s<>\"'()\[\]，。、；]*[\w/=#&%]"
BEFORE, AFTER = "(?<![A-Za-z0-9])", "(?![A-Za-z0-9])"


def _always(found: str) -> bool:
    return True


def _mixed(found: str) -> bool:
    """Whether letters and digits are an ID: 6 of them, with 3 digits or by turns (X7K9Q2). Words joined to numbers ("12-year-old") are none."""
    parts = re.split("[-_]", found)
    words = [part for part in parts if re.fullmatch("[A-Za-z]?[a-z]{2,}", part)]
    if words and all(re.fullmatch("[A-Za-z]+|[0-9]{1,4}[a-z]{0,2}", part) for part in parts):
        return False
    digits, turns = len(re.findall("[0-9]", found)), len(re.findall("[A-Za-z]+|[0-9]+", found))
    return digits < len("".join(parts)) >= 6 and digits >= 2 and (digits >= 3 or turns >= 4)


def _long(found: str) -> bool:
    """Whether groups of digits have 7 in all and are no years."""
    groups = re.findall("[0-9]+", found)
    span = re.fullmatch(f"{YEAR}[/-][0-9]{{2}}", found)
    return sum(map(len, groups)) >= 7 and span is None and not all(re.fullmatch(YEAR, group) for group in groups)


# Earlier ones come first where two overlap.
SHAPES: tuple[tuple[str, Callable[[str], bool]], ...] = (
    (r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]*[A-Za-z0-9]@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}", _always),  # an e-mail address
    (rf"(?:https?://|www\.)[A-Za-z0-9.-]+{PATH}", _always),  # a URL with a path
    (rf"(?<![A-Za-z0-9@.-])(?:[A-Za-z0-9-]+\.)+[A-Za-z]{{2,}}{PATH}", _always),
    (rf"{BEFORE}[A-Z]{{2}}[0-9]{{2}}(?: ?[A-Z0-9]{{4}}){{2,7}}(?: ?[A-Z0-9]{{1,3}})?{AFTER}", _always),  # an IBAN
    (rf"(?i)(?<![^\W_]){NTH}\s(?:of\s|de\s)?(?:{MONTHS})\.?,?(?:\sde)?\s{YEAR}{AFTER}", _always),  # 3 May 1990
    (rf"(?i)(?<![^\W_])(?:{MONTHS})\.?\s{NTH},?\s{YEAR}{AFTER}", _always),  # May 3, 1990
    (rf"{BEFORE}{YEAR}([-/.]){MONTH}\1{DAY}{AFTER}", _always),  # 1990-05-03
    (rf"{BEFORE}{DAY}([-/.]){DAY}\1{YEAR}{AFTER}", _always),  # 3.5.1990
    (rf"{YEAR}\s?[年년]\s?{MONTH}\s?[月월]\s?{DAY}\s?[日일]", _always),
    (rf"{BEFORE}(?=[A-Za-z_-]*[0-9])[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*{AFTER}", _mixed),  # an ID
    (rf"{BEFORE}[+(]{{0,2}}[0-9]+(?:(?:[ ./-]|\) ?| ?\(|\)-)[0-9]+)+{AFTER}", _long),  # a phone or card number
    (rf"{BEFORE}(?<![0-9][.,])(?:[0-9]{{5,}}|[0-9]{{2,3}},[0-9]{{3}}|[0-9]{{1,3}}(?:,[0-9]{{3}}){{2,}}){AFTER}", _always),  # 48213, 85,000
)
_PATTERNS = tuple((re.compile(shape), kept) for shape, kept in SHAPES)


def secret_like(text: str) -> list[str]:
    """The strings of a text that look like secrets, in order, each once, with full-width and other digits as plain ones.

    E-mail addresses; URLs with a path; IBANs; full dates; IDs that mix at least 6 letters and digits; numbers of at least 5 digits; groups of at
    least 7 digits in all, such as phone and card numbers. Years, spans of years and words such as "12-year-old", "1990s-era" or "COVID-19" are none.
    """
    text, taken = plain(text), list[tuple[int, int]]()
    for pattern, kept in _PATTERNS if re.search("[0-9@/]", text) else ():  # every shape has one of these
        for match in pattern.finditer(text):
            start, end = match.span()
            if kept(match[0]) and all(end <= other or start >= stop for other, stop in taken):
                taken.append((start, end))
    return list(dict.fromkeys(text[start:end] for start, end in sorted(taken)))


def plain(text: str) -> str:
    """One way of writing for each character: full-width letters as Latin ones, the digits of all scripts as 0 to 9, one kind of hyphen and space."""
    if not text.isascii():
        text = re.sub("[\u2010-\u2015\u2212]", "-", unicodedata.normalize("NFKC", text))
        text = "".join(str(unicodedata.decimal(character)) if character.isdecimal() else character for character in text)
    return re.sub(r"[^\S\n]", " ", text)
