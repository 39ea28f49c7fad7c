"""Scripts without spaces between words: there a word is as long as a character."""

import re

# Thai and Lao, Tibetan, Burmese, Khmer, kana, Han.
SPACELESS = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
_PIECES = re.compile(rf"[{SPACELESS}]|[^\s{SPACELESS}]+")


def pieces(text: str) -> list[str]:
    """What white space parts, and single characters of scripts without it.

    >>> pieces("Ann lives in 東京.")
    ['Ann', 'lives', 'in', '東', '京', '.']
    """
    return text.split() if text.isascii() else _PIECES.findall(text)
