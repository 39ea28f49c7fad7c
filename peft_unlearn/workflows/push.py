"""An adapter's publishable files, uploaded."""

from peft_unlearn.workflows.requests import PushRequest
from peft_unlearn.workflows.results import PushResult


def push(request: PushRequest) -> PushResult:
    """Upload to the Hugging Face Hub what `export` writes, as whom `hf auth login` logged in.

    Raises:
        UserError: what `publish.push` refuses.
    """
    from peft_unlearn import publish

    private = not request.public
    return PushResult(publish.push(request.adapter, request.repo, private=private, revision=request.revision), private)
