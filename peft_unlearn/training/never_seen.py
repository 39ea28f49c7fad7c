"""What a never-seen model tells a run: targets of the forget set and the holdout, and what to answer in place of what is forgotten."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.model import adapters, instead
from peft_unlearn.training import answers, checks, objectives, targets
from peft_unlearn.training.early_stop import sampled
from peft_unlearn.util.errors import UserError

Given: TypeAlias = str | Path | PreTrainedModel | None


@contextlib.contextmanager
def opened(model: PeftModel, given: Given) -> Iterator[PreTrainedModel | PeftModel]:
    """The never-seen model of a run on `model`: one that is loaded for it, that is given, or the base below an adapter.

    Raises:
        UserError: there is none.
    """
    if isinstance(given, str | Path):
        yield adapters.load_base(given, dtype=model.dtype).to(cast(Any, model.device))
        adapters.release()
    elif given is not None:
        yield given
    elif {adapters.FINETUNE, adapters.REFERENCE}.isdisjoint(model.peft_config):
        raise UserError("stop_at: 'never_seen' needs a model that never saw the forget set, give never_seen_model, or write auto.")
    else:
        with adapters.view(model, "never_seen"):
            yield model


def told(
    model: PreTrainedModel | PeftModel, args: UnlearnConfig, tokenizer: PreTrainedTokenizerBase, sets: Mapping[str, Dataset]
) -> dict[str, Dataset]:
    """The tokenized sets; forget set and holdout with its `target_logps`, and with `answers: natural` its own answers as forget rows' `alternate`.

    With `prompt_dropout` forget rows have what they lose in changed prompts (`targets.LOST`). With `logit_lens_coef` those that checks see have its
    inner layers' recall as `target_inner`.
    """
    size = args.per_device_eval_batch_size
    found = dict(sets) | targets.of_never_seen(model, tokenizer, sets, size)
    if args.prompt_dropout and targets.LOST not in found["forget"].column_names:
        lost = targets.lost_in_changed_prompts(model, args, tokenizer, sets["forget"], targets.read(found["forget"]))
        found["forget"] = found["forget"].add_column(targets.LOST, lost)
    if args.answers == "natural" and "alternate" not in found["forget"].column_names:
        found["forget"] = answers.beside(found["forget"], answers.of_never_seen(model, tokenizer, sets, seed=args.seed, batch_size=size))
    if objectives.says_instead(args):
        found["forget"] = instead.beside(found["forget"], instead.of_model(model, sets["forget"], size))
    if args.logit_lens_coef and "target_inner" not in found["forget"].column_names:
        recalls = dict(zip(sampled(len(sets["forget"])), checks.inner_recalls(model, tokenizer, sets["forget"], size), strict=True))
        found["forget"] = found["forget"].add_column("target_inner", [recalls.get(row) for row in range(len(sets["forget"]))])
    return found
