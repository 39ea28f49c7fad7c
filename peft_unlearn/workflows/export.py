"""The publishable files of an adapter or a merged model, or GGUF files of it, in a folder of their own."""

import shutil
from pathlib import Path

from peft_unlearn.util import llama_cpp
from peft_unlearn.workflows.requests import ExportRequest
from peft_unlearn.workflows.results import ExportResult


def export(request: ExportRequest) -> ExportResult:
    """Write into a new folder what `push` would upload. Checkpoints, the teacher, the audit's state and local paths stay behind.

    With `gguf`, GGUF files instead, and a gguf.json of what they still say.

    Raises:
        UserError: neither adapter nor model in the folder, a taken output, too little room on its disk, or llama.cpp is not there or refuses.
    """
    from peft_unlearn.workflows import checks

    checks.new_folder(request.output)
    if request.gguf:
        source = llama_cpp.checkout(request.llama_cpp)
        llama_cpp.check(request.gguf, source)
        checks.say_loading()

        from peft_unlearn.workflows import exported

        return exported.as_gguf(request, source)

    from peft_unlearn.merging.shards import written_whole
    from peft_unlearn.publish.files import publishable

    _, files = publishable(Path(request.adapter), base=request.base, below=request.below)
    with written_whole(Path(request.output), sum(file.upload_info.size for file in files)) as folder:
        for file in files:
            with file.as_file() as content, (folder / file.path_in_repo).open("wb") as copy:
                shutil.copyfileobj(content, copy)
    return ExportResult(Path(request.output), tuple(file.path_in_repo for file in files))
