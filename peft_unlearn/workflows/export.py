"""The publishable files of an adapter or a merged model, in a folder of their own."""

import shutil
from pathlib import Path

from peft_unlearn.workflows.requests import ExportRequest
from peft_unlearn.workflows.results import ExportResult


def export(request: ExportRequest) -> ExportResult:
    """Write into a new folder what `push` would upload. Checkpoints, the teacher, the audit's state and local paths stay behind.

    Raises:
        UserError: neither adapter nor model in the folder, a taken output, or too little room on its disk.
    """
    from peft_unlearn.workflows import checks

    checks.new_folder(request.output)

    from peft_unlearn.merging.shards import written_whole
    from peft_unlearn.publish.files import publishable

    _, files = publishable(Path(request.adapter), base=request.base, below=request.below)
    with written_whole(Path(request.output), sum(file.upload_info.size for file in files)) as folder:
        for file in files:
            with file.as_file() as source, (folder / file.path_in_repo).open("wb") as copy:
                shutil.copyfileobj(source, copy)
    return ExportResult(Path(request.output), tuple(file.path_in_repo for file in files))
