"""The one error that is the user's to mend."""


def printable(text: str) -> str:
    """A text without what a terminal would act on: each such character as Python writes it."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class UserError(ValueError):
    """A mistake that the user can mend.

    The message is one sentence on one line that names the key, file or row and says what to write instead; names in it stand as they are, but for
    what a terminal would act on. The command line prints it without a traceback and exits with status 2.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))
