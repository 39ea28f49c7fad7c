"""The one error that is the user's to mend."""


class UserError(ValueError):
    """A mistake that the user can mend.

    The message is one sentence that names the key, file or row and says what to write instead. The command line prints it without a traceback
    and exits with status 2.
    """
