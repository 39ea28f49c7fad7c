"""Upload a forgetting adapter to the Hugging Face Hub: the publishable files of its folder, and nothing else."""

import json
import logging
import re
from pathlib import Path

import yaml
from httpx2 import HTTPError
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from peft_unlearn.config import reading
from peft_unlearn.merging import lora, shards
from peft_unlearn.report import page
from peft_unlearn.util.boundary import boundary
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import ADAPTER_CONFIG, read_json
from peft_unlearn.util.redaction import public_name, publish

logger = logging.getLogger(__name__)

JSON_FILES, YAML_FILES, PROSE_FILES = [ADAPTER_CONFIG, "report.json"], ["recipe.yaml"], ["README.md", "report.html"]


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
) -> str:
    """Upload the adapter in `folder` in one commit, and return the address of its repository.

    Checkpoints, the teacher, optimizer states and data stay here. Local paths in the texts are cut to their last component, and a warning
    names each. With `private`, an existing public repository is refused.

    Args:
        token: of the Hub; by default the one that `hf auth login` saved.
        revision: branch to commit to, made if it is not there.

    Raises:
        UserError: no adapter in the folder, not logged in, a bad repository name, no connection, or what the Hub refuses.
    """
    _check_token(token)
    operations = publishable(Path(folder))
    api = HfApi(token=token)
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.repo_info(repo.repo_id).private:
            raise UserError(f"repo_id: {repo.repo_id} is there already and is public; make it private, name another one, or say public.")
        if revision is not None:
            api.create_branch(repo.repo_id, branch=revision, exist_ok=True)
        api.create_commit(repo.repo_id, operations, commit_message="Upload unlearning adapter", revision=revision)
    except (OSError, HTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"repo_id: {repo_id!r} could not be uploaded to ({reason}); check the name, the connection and `hf auth login`."
        ) from error
    return str(repo)


def check(repo_id: str, *, token: str | None = None) -> None:
    """See that `push` could upload to a repository of that name; nothing is made or uploaded.

    Raises:
        UserError: not logged in, a token that may not write, a bad name or one of somebody else, or no connection.
    """
    _check_token(token)
    with boundary(f"push_to_hub: nothing could be uploaded to {repo_id!r}", "check hub_model_id, the connection and `hf auth login`"):
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


def publishable(folder: Path) -> list[CommitOperationAdd]:
    """What of an adapter's folder is uploaded, the texts without local paths.

    Raises:
        UserError: no adapter in the folder.
    """
    for name in (ADAPTER_CONFIG, lora.WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: there is no such file; give a folder with a saved adapter.")
    names = [name for name in (*JSON_FILES, *YAML_FILES, *PROSE_FILES) if (folder / name).is_file()]
    texts: dict[str, str] = {}
    hidden: set[str] = set()
    for name in names:  # prose comes last, when all paths are known
        with boundary(f"{folder / name}: it is damaged and cannot be uploaded", "write it again, or remove it"):
            if name in JSON_FILES:
                texts[name] = json.dumps(publish(read_json(folder / name), hidden), indent=2)
            elif name in YAML_FILES:
                texts[name] = yaml.safe_dump(publish(reading.load(folder / name), hidden), sort_keys=False)
            else:
                texts[name] = _without_paths((folder / name).read_text(encoding="utf-8"), hidden)
    if page.SHOWS_TEXT in texts.get("report.html", ""):
        logger.warning("report.html shows texts of the forget set and stays on this machine.")
        del texts["report.html"]
    for path in sorted(hidden):
        logger.warning("%s is uploaded as %s: local paths stay on this machine.", path, public_name(path))
    files = sorted(path for pattern in [lora.WEIGHTS, *shards.TOKENIZER_FILES] for path in folder.glob(pattern))
    return [
        *(CommitOperationAdd(name, text.encode()) for name, text in texts.items()),
        *(CommitOperationAdd(path.name, path) for path in files),
    ]


def _without_paths(text: str, paths: set[str]) -> str:
    for path in sorted(paths, key=len, reverse=True):  # the longest first: one may begin another
        text = re.sub(rf"(?<![\w./]){re.escape(path)}(?!\w)", public_name(path), text)
    return text
