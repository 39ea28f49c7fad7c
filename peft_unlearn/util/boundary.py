"""The boundary around libraries: whatever one raises while it reads what a user gave is told in a sentence.

It stands around calls of libraries alone, so that a mistake of our own keeps its traceback.
"""

import contextlib
from collections.abc import Iterator

from peft_unlearn.util.errors import UserError

LONGEST = 240  # characters of what a library said
OURS = (UserError, KeyboardInterrupt, SystemExit, GeneratorExit)
SPEAKING = (OSError, ValueError, ImportError, RuntimeError)  # errors whose message says by itself what is wrong


@contextlib.contextmanager
def boundary(what: str, mend: str) -> Iterator[None]:
    """Call a library on what a user gave.

    Args:
        what: what cannot be done, beginning with the key, such as "model_name_or_path: 'x' cannot be loaded".
        mend: what to write instead.

    Raises:
        UserError: `what`, what the library said in brief, and `mend`; or what to install, or that there is too little memory.
    """
    try:
        yield
    except OURS:
        raise
    except BaseException as error:  # libraries raise of all kinds, panics of Rust code too, and none is met by more than a sentence
        raise UserError(f"{what} ({brief(error)}); {_mend(error, mend)}.") from error


def brief(error: BaseException) -> str:
    """What an error says, on one line, without its last stop."""
    said = " ".join("".join(letter if letter.isprintable() else " " for letter in str(error)).split()).rstrip(".")
    said = said if isinstance(error, SPEAKING) and said else f"{type(error).__name__}: {said}".removesuffix(": ")
    return said if len(said) <= LONGEST else said[:LONGEST].rsplit(" ", 1)[0] + " …"


def _mend(error: BaseException, mend: str) -> str:
    if isinstance(error, ImportError):
        return f"install that, or {mend}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return "the memory is too small for it: free some, hold the base in 4 bits (load_in_4bit), or write something smaller"
    return mend
