"""One LoRA of the user's own and of what was trained on top of it, to be used as the own one was."""

from pathlib import Path

from peft_unlearn.workflows.requests import CombineRequest
from peft_unlearn.workflows.results import CombineResult


def combine(request: CombineRequest) -> CombineResult:
    """Write the sum of several adapters as one, with the tokenizer, and the recipe, report and card of the last one where a run of ours wrote it.

    The folder is read as one that `adapter_mode: continue` wrote: *before* is the first adapter alone. With a smaller rank the numbers of the last
    adapter's report are not those of the new one, so that no report is written; `evaluate` measures it.

    Raises:
        UserError: a taken output, before torch is imported; adapters that are no LoRA together; or one that holds the first one already.
    """
    from peft_unlearn.workflows import checks

    checks.new_folder(request.output)

    from peft_unlearn.merging import combining, shards
    from peft_unlearn.workflows import combined

    folders = [combined.located(name) for name in request.adapters]
    settings = combined.settings_of(folders[-1], request.adapters)
    made = combining.combined({str(name): combining.read(folder) for name, folder in zip(request.adapters, folders, strict=True)})
    rank = combining.rank_for(made, request.energy) if request.energy is not None else request.rank
    made, energy = combining.compressed(made, rank or made.config.r)
    with shards.written_whole(Path(request.output), combining.size(made)) as partial:
        combining.write(made, partial)
        combining.write_report(partial, [str(name) for name in request.adapters], made.config.r, energy)
        for folder in folders:
            shards.copy_files(folder, partial, shards.TOKENIZER_FILES)
        if settings:
            combined.write_run(partial, folders[-1], settings, exact=all(one.kept == one.total for one in energy.values()))
    return CombineResult(Path(request.output), made.config.r, energy)
