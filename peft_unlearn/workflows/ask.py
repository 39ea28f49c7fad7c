"""One question, asked of the model before, after, and of one that never saw the forget set."""

from peft_unlearn.workflows.requests import AskRequest
from peft_unlearn.workflows.results import AskResult


def ask(request: AskRequest) -> AskResult:
    """Load the models, and give back what asks all of them.

    A never-seen model is the one that the request or the run's recipe names, or the base below an adapter of the user's own.

    Raises:
        UserError: no such model, or one that cannot be used.
    """
    from peft_unlearn.workflows import checks

    checked = checks.loaded(request)
    checks.say_loading()

    from peft_unlearn.workflows import ask_run

    return ask_run.load(checked)
