"""A forgetting adapter merged into its base, and what is left of the forgetting there."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows.requests import MergeRequest, Name
from peft_unlearn.workflows.results import MergeResult


def merge(request: MergeRequest) -> MergeResult:
    """Merge an adapter into its base, shard by shard, and evaluate the merged folder on the sets of the adapter's recipe.

    Where these are not there, the result says why there is no report.

    Raises:
        UserError: a taken output, before torch is imported; or what `merging.merge` refuses.
    """
    from peft_unlearn.workflows import checks

    checks.new_folder(request.output)
    checks.say_loading()

    from peft_unlearn import merging, publish
    from peft_unlearn.config import recipe
    from peft_unlearn.merging.survival import median_alpha
    from peft_unlearn.workflows import merged

    adapter = Path(request.adapter)
    settings = recipe.known(recipe.written(adapter))
    below = below_of(request.below, settings)
    result = merging.merge(
        request.adapter,
        request.output,
        base=request.base,
        dtype=request.dtype,
        quantize=request.quantize,
        onto=request.onto,
        trained=merged.trained_on(settings),
        force=request.force,
        below=(below,) if below else (),
        revision=None if request.base else settings.get("model_revision"),
    )
    made = MergeResult(result.folder, result.survival)
    if request.evaluate:
        try:
            made = replace(made, report=merged.evaluate(result.folder, adapter, settings))
        except UserError as error:
            wanted = merged.request(result.folder, settings) if settings.get("forget_dataset") else None
            made = replace(made, not_evaluated=str(error), evaluation=wanted)
    publish.write_merged_card(
        result.folder,
        base=result.base,
        adapter=str(request.adapter),
        weights=result.written,
        kept=median_alpha(result.survival),
        report=made.report,
    )
    return made


def below_of(asked: Name | None, settings: Mapping[str, Any]) -> Name | None:
    """The adapter that lies below a forgetting adapter: the one that is asked for, or that the run's recipe names; one that was continued is gone."""
    return settings.get("adapter_name_or_path") if asked is None and settings.get("adapter_mode") != "continue" else asked
