"""The boundary around libraries: whatever one raises while it reads what a user gave is told in a sentence.

It stands around calls of libraries alone, so that a mistake of our own keeps its traceback; around a model's own code it is `supported.running`.
"""

from dataclasses import dataclass
from types import TracebackType

from peft_unlearn.util.errors import UserError

LONGEST = 240  # characters of what a library said
SPEAKING = (OSError, ValueError, ImportError, RuntimeError)  # errors whose message says by itself what is wrong


@dataclass(frozen=True)
class boundary:
    """Within it a library is called on what a user gave.

    Args:
        what: what cannot be done, beginning with the key, such as "model_name_or_path: 'x' cannot be loaded".
        mend: what to write instead.

    Raises:
        UserError: `what`, what the library said in brief, and `mend`; or what to install, or that there is too little memory.
    """

    what: str
    mend: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        raised = isinstance(error, Exception) or type(error).__name__ == "PanicException"  # of Rust code, which is no Exception
        if error is not None and raised and not isinstance(error, UserError):
            raise UserError(f"{self.what} ({brief(error)}); {_mend(error, self.mend)}.") from error


def brief(error: BaseException) -> str:
    """What an error says, on one line, without its last stop."""
    said = " ".join("".join(letter if letter.isprintable() else " " for letter in str(error)).split()).rstrip(".")
    if type(error).__name__ == "SafetensorError":
        return f"a file of weights is truncated or damaged: {said}"
    said = said if isinstance(error, SPEAKING) and said else f"{type(error).__name__}: {said}".removesuffix(": ")
    return said if len(said) <= LONGEST else said[:LONGEST].rsplit(" ", 1)[0] + " …"


def _mend(error: BaseException, mend: str) -> str:
    if isinstance(error, ImportError):
        return f"install that, or {mend}"
    if type(error).__name__ == "GatedRepoError":
        return f"ask for access on its page on the Hub and run `hf auth login`, or {mend}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return "the memory is too small for it: free some, hold the base in 4 bits (load_in_4bit), or write something smaller"
    return mend
