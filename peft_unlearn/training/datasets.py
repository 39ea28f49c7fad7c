"""What a run trains on: tokenised sets, the forget rows with what their loss reads besides."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from peft_unlearn import data
from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.data.formats import is_tokenized
from peft_unlearn.data.labels import IGNORE
from peft_unlearn.model import adapters
from peft_unlearn.training import targets
from peft_unlearn.util.errors import UserError

logger = logging.getLogger(__name__)

SELF_RETAIN_LENGTH = 256  # tokens a text that the model writes itself; each costs a forward step


class Streams(NamedTuple):
    """`sets` are tokenised: "forget", "retain", "holdout" if there is one, and those of `eval_dataset`.

    Forget rows have a column `alternate` for a loss that reads alternate answers, and `target_logps` with `stop_at`. `holdout_target` is then
    the Min-K of a sample of the holdout rows under the same never-seen model.
    """

    sets: dict[str, Dataset]
    holdout_target: np.ndarray | None


def prepare(
    model: PeftModel,
    args: UnlearnConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    forget: Dataset,
    retain: Dataset | None,
    holdout: Dataset | None,
    others: dict[str, Dataset],
    never_seen: Any,
) -> Streams:
    """Tokenise the sets of a run; without a retain set, let the model write one.

    Raises:
        UserError: no `Dataset`, rows that cannot be used, forget rows that also stand in the retain set or the holdout, or nothing that
            `args.stop_at` could land by.
    """
    if not isinstance(others, dict):
        raise UserError("eval_dataset: a mapping of names to Datasets is needed, write {'facts': dataset}.")
    given = {"forget": forget, "retain": retain, "holdout": holdout}
    context = getattr(model.config.get_text_config(), "max_position_embeddings", args.max_length)  # not every model has a limit
    length = min(args.max_length, context)

    def rows(dataset: Dataset, name: str) -> Dataset:
        return tokenised(dataset, tokenizer, length, name)

    forget_rows = rows(forget, "forget_dataset")
    if retain is None:
        with adapters.view(model, "reference"):
            retain = data.write_retain_rows(
                model,
                tokenizer,
                args.self_retain_rows,
                max_length=min(length, SELF_RETAIN_LENGTH),
                seed=args.seed,
                forget=forget_rows,
            )
    sets = {"forget": forget_rows, "retain": rows(retain, "retain_dataset")}
    if holdout is not None:
        sets["holdout"] = rows(holdout, "holdout_dataset")
    for name in ("retain", "holdout"):
        if given[name] is not None:  # not what the model wrote itself
            _check_apart(sets if any(map(is_tokenized, (forget, given[name]))) else given, name)
    sets |= {name: rows(found, f"eval_dataset.{name}") for name, found in others.items()}

    if args.alternate == "none":
        sets["forget"] = _without(forget_rows, "alternate")
    elif "alternate" in forget_rows.column_names:
        rows(Dataset.from_list(forget_rows["alternate"]), "forget_dataset.alternate")
    elif "input_ids" in forget.column_names:
        raise UserError(f"forget_dataset: {args.forget_loss} reads alternate answers, give the tokenised rows a column alternate.")
    else:
        answers = data.alternates(forget, args.alternate, seed=args.seed)
        sets["forget"] = forget_rows.add_column("alternate", rows(answers, "forget_dataset").to_list())
    if args.stop_at == "none":
        sets["forget"] = _without(sets["forget"], "target_logps")
        return Streams(sets, None)
    sets["forget"], holdout_target = targets.find(args, model, tokenizer, sets, never_seen)
    return Streams(sets, holdout_target)


def _check_apart(sets: Mapping[str, Dataset | None], name: str) -> None:
    """Refuse forget rows that also stand in the set `name`; of tokenised rows, which may be alike only as they were cut, warn."""
    forget, other = cast(Dataset, sets["forget"]), cast(Dataset, sets[name])
    try:
        data.check_apart(forget, other, f"{name}_dataset")
    except UserError as error:
        if not is_tokenized(forget):
            raise
        logger.warning("Warning: as they are tokenised, %s", error)


def tokenised(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, length: int, name: str) -> Dataset:
    """Tokenised rows of at most `length` tokens, each with something to predict; of rows that are tokenised already, a check."""
    if not isinstance(dataset, Dataset):
        raise UserError(
            f"{name}: a Dataset is needed and this is a {type(dataset).__name__}, "
            "load a file with datasets.load_dataset('json', data_files=..., split='train')."
        )
    if len(dataset) == 0:
        raise UserError(f"{name}: it is empty, give at least one row.")
    if not is_tokenized(dataset):
        return data.tokenize(dataset, tokenizer, length, name=name).rows
    for number, row in enumerate(dataset.select_columns(["input_ids", "labels"]).with_format("numpy"), 1):
        if len(row["input_ids"]) > length:
            raise UserError(f"{name}: row {number} has {len(row['input_ids'])} tokens and max_length is {length}, cut the row.")
        if not (row["labels"][1:] != IGNORE).any():
            raise UserError(f"{name}: row {number} has no label after its first token, take the row out.")
    return dataset


def _without(rows: Dataset, column: str) -> Dataset:
    """Rows without what this run does not read; a model's input would hold it otherwise."""
    return rows.remove_columns(column) if column in rows.column_names else rows
