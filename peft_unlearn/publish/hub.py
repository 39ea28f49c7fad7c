"""Upload an adapter or a merged model to the Hugging Face Hub in one commit, which is there as a whole or not at all."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from httpx2 import HTTPError
from huggingface_hub import CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from peft_unlearn.merging import lora, shards
from peft_unlearn.publish.files import JSON_FILES, PROSE_FILES, YAML_FILES, publishable
from peft_unlearn.util.boundary import boundary, brief
from peft_unlearn.util.errors import UserError

logger = logging.getLogger(__name__)

MESSAGE = "Upload by peft-unlearn"
UNREACHABLE = (OSError, HTTPError)  # no Hub, or none that knows the place
OURS = {*JSON_FILES, *YAML_FILES, *PROSE_FILES, *shards.MODEL_FILES, lora.WEIGHTS, shards.SINGLE, shards.INDEX}


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    base: str | None = None,
    below: str | None = None,
) -> str:
    """Upload the adapter or merged model in `folder` in one commit, and return the address of its repository.

    Checkpoints, the teacher, optimizer states and data stay here. Local paths in the texts are cut to their last component, and a warning
    names each. With `private`, an existing public repository is refused. What an earlier upload left there and this one lacks is deleted.
    Where the upload fails, a repository or branch that was made for it goes again.

    Args:
        token: of the Hub; by default the one that `hf auth login` saved.
        revision: branch to commit to, made if it is not there.
        base, below: names on the Hub of the base and of the adapter that this one was trained on, where they are local folders here.

    Raises:
        UserError: nothing to upload in the folder, not logged in, a bad name, no connection, or what the Hub refuses.
    """
    _check_token(token)
    _, operations = publishable(Path(folder), repo=repo_id, base=base, below=below)
    api, names = HfApi(token=token), {operation.path_in_repo for operation in operations}
    with _told(f"repo_id: {repo_id!r} could not be uploaded to"):
        validate_repo_id(repo_id)
        if base:
            _check_base(api, base)
        with _place(api, repo_id, private, revision, names) as repo:
            stale = OURS.intersection(api.list_repo_files(repo, revision=revision)) - names
            deleted = [CommitOperationDelete(name) for name in sorted(stale)]
            api.create_commit(repo, [*deleted, *operations], commit_message=MESSAGE, revision=revision)
    return f"{api.endpoint}/{repo}"


@contextlib.contextmanager
def _place(api: HfApi, repo_id: str, private: bool, revision: str | None, names: set[str]) -> Iterator[str]:
    """The repository to upload to, and the branch in it, made where they are not there.

    Where it fails within, what was made goes again. If all of `names` are there by then, the upload is, and only the Hub's answer was lost.
    """
    repo, made = _repository(api, repo_id, private)
    branched = False
    try:
        if private and not made and not api.repo_info(repo).private:
            raise UserError(f"repo_id: {repo} is there already and is public; make it private, name another one, or say public.")
        if revision is not None:
            branched = _branch(api, repo, revision)
        yield repo
    except BaseException:
        if not made and not branched:
            raise
        with contextlib.suppress(*UNREACHABLE):
            if names <= set(api.list_repo_files(repo, revision=revision)):
                return
        with contextlib.suppress(*UNREACHABLE):
            api.delete_repo(repo) if made else api.delete_branch(repo, branch=str(revision))
        raise


def _repository(api: HfApi, repo_id: str, private: bool) -> tuple[str, bool]:
    """The full name of a repository, and whether it was made now."""
    try:
        return api.create_repo(repo_id, private=private).repo_id, True
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 402, 403, 409):
            raise
        return api.create_repo(repo_id, private=private, exist_ok=True).repo_id, False  # there already, or not ours to make


def _branch(api: HfApi, repo: str, revision: str) -> bool:
    """Make a branch; whether it was not there."""
    try:
        api.create_branch(repo, branch=revision)
    except HfHubHTTPError as error:
        if error.response.status_code not in (403, 409):
            raise
        api.create_branch(repo, branch=revision, exist_ok=True)
        return False
    return True


def _check_base(api: HfApi, base: str) -> None:
    """See that the base's name is one on the Hub; whoever loads the adapter of a gated one must ask for it first."""
    try:
        found = api.model_info(base)
    except RepositoryNotFoundError as error:
        raise UserError(f"base: {base!r} is no model on the Hub that you may see; write the name of one, or leave it out.") from error
    if found.gated:
        logger.info("The base %s is gated: whoever loads this asks for access to it first.", base)


@dataclass(frozen=True)
class _told(boundary):
    """What the Hub refuses, with what helps against it."""

    mend: str = "check the name, the connection and `hf auth login`"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        cause = error
        while cause is not None and not isinstance(cause, HfHubHTTPError | OfflineModeIsEnabled | UserError):
            cause = cause.__cause__
        if isinstance(cause, OfflineModeIsEnabled):
            raise UserError(f"{self.what}: HF_HUB_OFFLINE is set; unset it, or write the files by `peft-unlearn export`.") from error
        if isinstance(cause, HfHubHTTPError) and (mend := _mend(cause)):
            raise UserError(f"{self.what} ({brief(cause)}); {mend}.") from error
        super().__exit__(kind, error, trace)


def _mend(error: HfHubHTTPError) -> str | None:
    """What helps against an answer of the Hub."""
    if isinstance(error, GatedRepoError):
        return "ask for access on its page, with the account that `hf auth login` logged in"
    status = error.response.status_code
    if status == 401:
        return "the token is not valid (any more), run `hf auth login`"
    if status == 403:
        return "the token may not write there, make one that may and run `hf auth login`, or name a repository of your own"
    if status == 429:
        return "the Hub asks to go slower, try again in some minutes"
    return "the Hub is at fault, try again later" if status >= 500 else None


def check(repo_id: str, *, token: str | None = None) -> None:
    """See that `push` could upload to a repository of that name; nothing is made or uploaded.

    Raises:
        UserError: not logged in, a token that may not write, a bad name or one of somebody else, or no connection.
    """
    _check_token(token)
    with _told(f"push_to_hub: nothing could be uploaded to {repo_id!r}", "check hub_model_id, the connection and `hf auth login`"):
        validate_repo_id(repo_id)
        me = HfApi(token=token).whoami()
        owners = [me["name"], *(one["name"] for one in me.get("orgs", ()))]
        role = me.get("auth", {}).get("accessToken", {}).get("role")
    if "/" in repo_id and repo_id.split("/")[0] not in owners:
        raise UserError(f"hub_model_id: {repo_id} belongs to somebody else, write a name under {' or '.join(owners)}.")
    if role == "read":
        raise UserError(
            "push_to_hub: the token that you are logged in with may only read; make one that may write, and run `hf auth login`."
        )


def _check_token(token: str | None) -> None:
    if token is None and get_token() is None:
        raise UserError("token: you are not logged in to the Hub; run `hf auth login`, or give a token.")
