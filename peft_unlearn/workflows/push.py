"""The publishable files of an adapter or a merged model, uploaded."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows.requests import PushRequest
from peft_unlearn.workflows.results import PushResult

logger = logging.getLogger(__name__)


def push(request: PushRequest, confirm: Callable[[str], bool] | None = None) -> PushResult:
    """Upload to the Hugging Face Hub what `export` writes, as whom `hf auth login` logged in.

    What becomes public is searched for texts of the forget set first, and is refused where one is found.

    Args:
        confirm: asked, with what it means, before anything becomes public; by default nobody is.

    Raises:
        UserError: what `publish.push` refuses, a text of the forget set in a public file, or a no.
    """
    from peft_unlearn import publish
    from peft_unlearn.publish.files import says_no_base

    folder = Path(request.adapter)
    if request.base is None and says_no_base(folder):
        logger.warning("Warning: the card names no base on the Hub, for it is a folder here; give its name there as --base.")
    if request.public:
        said = _meaning(request, folder)
        if confirm is not None and not confirm(said):
            raise UserError("public: this was not confirmed, and nothing was uploaded; leave --public out to upload privately.")
    private = not request.public
    address = publish.push(folder, request.repo, private=private, revision=request.revision, base=request.base, below=request.below)
    return PushResult(address, private)


def _meaning(request: PushRequest, folder: Path) -> str:
    """What becomes public, and what it gives away.

    Raises:
        UserError: a text of the forget set in one of the files.
    """
    from peft_unlearn.publish.files import publishable
    from peft_unlearn.publish.leak import leaks
    from peft_unlearn.util.folders import read_json

    texts, files = publishable(folder, repo=request.repo, base=request.base, below=request.below)
    rows, checked = _forget_rows(folder)
    for name, row in leaks(texts, rows).items():
        raise UserError(f"{folder / name}: it holds text of row {row} of the forget set; take it out, or upload privately.")
    report: Mapping[str, Any] = read_json(folder / "report.json") if "report.json" in texts else {}
    word = (report.get("verdict") or {}).get("word") or "none"
    return "\n".join(
        [
            f"{request.repo} becomes public with {', '.join(sorted(file.path_in_repo for file in files))}.",
            f"Leak check: {checked}",
            f"Verdict: {word}; {'attacked by `peft-unlearn audit`' if report.get('attacks') else 'never attacked: run `peft-unlearn audit` first'}.",
            "Whoever has the base and an adapter has the model before and after, and can draw out what was forgotten.",
        ]
    )


def _forget_rows(folder: Path) -> tuple[list[Any], str]:
    """The rows of the forget set that the folder's recipe names, and what is said of a search for them."""
    from peft_unlearn import data
    from peft_unlearn.config import recipe

    spec = recipe.known(recipe.written(folder)).get("forget_dataset")
    if not spec:
        return [], "not made, no recipe.yaml beside it names the forget set."
    try:
        rows = list(data.load(spec, name="forget_dataset"))
    except UserError as error:
        return [], f"not made ({error})"
    return rows, f"no text of the {len(rows)} rows of the forget set is in card, recipe or report."
