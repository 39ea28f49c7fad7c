"""What a run trains on: the one path from sets as they are given to tokenized rows, the forget rows with what their loss reads besides.

`tokenize` needs no model, so that rows that cannot be used are refused before one is loaded; `prepare` adds what a model must tell.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from peft_unlearn import data
from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.data import groups, labels
from peft_unlearn.data.formats import is_tokenized, settled
from peft_unlearn.data.variants import REWORDED, Probe, probe
from peft_unlearn.model import adapters
from peft_unlearn.model.sharing import sharing
from peft_unlearn.training import answers, held, objectives, targets
from peft_unlearn.training import never_seen as never_seen_model
from peft_unlearn.training.checks import mean_recall
from peft_unlearn.training.early_stop import sampled
from peft_unlearn.training.parting import Parting, parted
from peft_unlearn.util.errors import UserError

logger = logging.getLogger(__name__)

SELF_RETAIN_LENGTH = 256  # tokens a text that the model writes itself; each costs a forward step
NEUTRAL_LENGTH, NEUTRAL_BATCH = 96, 48  # of those that are held beside the user's rows
KEYS = {"forget": "forget_dataset", "retain": "retain_dataset", "holdout": "holdout_dataset"}  # any other set is one of eval_dataset


class Streams(NamedTuple):
    """Tokenized: `sets` to evaluate ("forget", "retain", "holdout" if there is one, those of `eval_dataset`), and what is `trained` on.

    That is "forget", "retain", as "holdout" a part of it that `sets` has not beside texts that the model wrote itself and what it forgot before, and
    other "answers" where they are learned. Forget rows have a column `alternate` for a loss that reads other answers beside them, and
    `target_logps` with `stop_at`.
    `holdout_target` is then the Min-K of the holdout rows of `sets` under the same never-seen model, `inner_target` the recall by its inner layers.
    `subjects` has a number for each retain row that rows which belong together share; it is empty where each stands alone. `parting` is there where
    other answers are taught. `changed` is the factor of targets where prompt dropout changes a prompt.
    """

    sets: dict[str, Dataset]
    trained: dict[str, Dataset]
    holdout_target: np.ndarray | None
    inner_target: float | None
    subjects: Sequence[int] = ()
    parting: Parting | None = None
    changed: float = 1.0


def named(
    forget: Dataset | None, retain: Dataset | None, holdout: Dataset | None, others: Mapping[str, Dataset] | None
) -> dict[str, Dataset]:
    """The sets of a run by their names, without those that are not there.

    Raises:
        UserError: no forget set, or a name of a further set that is taken.
    """
    if forget is None:
        raise UserError("forget_dataset: there is none; give the rows to forget.")
    if not isinstance(others or {}, dict):
        raise UserError("eval_dataset: a mapping of names to Datasets is needed, write {'facts': dataset}.")
    for name in KEYS.keys() & set(others or {}):
        raise UserError(f"eval_dataset: {name!r} must be a name of its own, the set {KEYS[name]} is called so.")
    own = {"forget": forget, "retain": retain, "holdout": holdout}
    return {name: rows for name, rows in own.items() if rows is not None} | dict(others or {})


def row_length(config: PreTrainedConfig, max_length: int) -> int:
    """The tokens that a row may have: `max_length`, or the model's context if that is shorter."""
    context = config.get_text_config().to_dict().get("max_position_embeddings")  # ALiBi and state-space models have none
    return min(max_length, context or max_length)


def tokenize(
    args: UnlearnConfig,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    sets: Mapping[str, Dataset],
    *,
    reword: bool = False,
    reword_rows: int = 0,
    group_column: str | None = None,
    vocabulary: int | None = None,
) -> dict[str, Probe]:
    """Check the sets, and tokenize those that are text, with the variants of their rows that stand in their columns.

    Args:
        args: `chat_template_kwargs` are for the chat template; with `alternate`, forget rows get their alternate answers as a column.
        length: tokens a row may have, see `row_length`.
        sets: "forget", "retain" and "holdout" if they are there, and any others, each text in a format of `peft_unlearn.data` or tokenized.
        reword: make other wordings of the forget and holdout rows by rules, which evaluation reads and training does not; of
            `reword_rows` of them, evenly spaced, 0 is all.
        group_column: the column that groups the rows; the forget set must have it.
        vocabulary: tokens that the model knows, by which tokenized rows are checked.

    Raises:
        UserError: no `Dataset`, rows that cannot be used, or forget rows that also stand in the retain set or the holdout.
    """
    sets = {
        name: settled(rows, KEYS.get(name, f"eval_dataset.{name}")) if isinstance(rows, Dataset) else rows for name, rows in sets.items()
    }
    probes = {
        name: _probe(
            rows,
            args,
            tokenizer,
            length,
            KEYS.get(name, f"eval_dataset.{name}"),
            reword=reword and name in REWORDED,
            reword_rows=reword_rows,
            group_column=group_column,
            vocabulary=vocabulary,
        )
        for name, rows in sets.items()
    }
    rows = {name: found.rows for name, found in probes.items()}
    for name in sets.keys() & {"retain", "holdout"}:
        _check_apart(rows if is_tokenized(sets["forget"]) or is_tokenized(sets[name]) else sets, name)
    return probes | {"forget": probes["forget"]._replace(rows=_with_alternates(args, tokenizer, length, sets["forget"], rows["forget"]))}


@sharing()
def prepare(
    model: PeftModel,
    args: UnlearnConfig,
    tokenizer: PreTrainedTokenizerBase,
    sets: Mapping[str, Dataset],
    never_seen: Any,
    forgotten: Sequence[Dataset] = (),
) -> Streams:
    """The sets as `tokenize` makes them; without a retain set the model writes one, and with `stop_at` forget rows get their targets.

    Args:
        forgotten: sets to be held where they are beside the holdout.

    Raises:
        UserError: what `tokenize` refuses, or nothing that `args.stop_at` could stop by.
    """
    length, vocabulary = row_length(model.config, args.max_length), cast(nn.Embedding, model.get_input_embeddings()).weight.shape[0]
    probes = tokenize(args, tokenizer, length, sets, vocabulary=vocabulary)
    rows, subjects = {name: found.rows for name, found in probes.items()}, probes["retain"].groups if "retain" in probes else ()

    def written(number: int, longest: int, what: str, **others: Any) -> Dataset | None:
        with adapters.view(model, "given"):  # the reference may tell what an earlier request made forgotten
            texts = data.write_rows(
                model, tokenizer, number, max_length=min(length, longest), seed=args.seed, forget=rows["forget"], what=what, **others
            )
        return _probe(Dataset.from_list(texts), args, tokenizer, length, what).rows if texts else None

    if "retain" not in rows:
        retain = written(args.self_retain_rows, SELF_RETAIN_LENGTH, "retain_dataset")
        if retain is None:
            raise UserError("retain_dataset: the model writes no text of its own that could stand in for one, give a retain_dataset.")
        rows = {"forget": rows["forget"], "retain": retain} | rows
    unchanged = []
    if args.neutral_rows and args.holdout_kl != "none":
        kept = [row for name in ("retain", "holdout") if name in rows for row in rows[name]]
        neutral = written(args.neutral_rows, NEUTRAL_LENGTH, "neutral_rows", kept=kept, batch_size=NEUTRAL_BATCH)
        unchanged += [] if neutral is None else [neutral]
    if forgotten and args.holdout_kl != "none":
        key = "forgotten_datasets"
        unchanged.append(held.joined([_probe(settled(found, key), args, tokenizer, length, key).rows for found in forgotten]))
    if args.stop_at == "never_seen" and "target_logps" not in rows["forget"].column_names:
        with never_seen_model.opened(model, never_seen) as other:
            rows = never_seen_model.told(other, args, tokenizer, rows)
    if args.answers == "natural" and "alternate" not in rows["forget"].column_names:
        with adapters.view(model, "given"):
            found = answers.of_model_itself(model, tokenizer, rows, seed=args.seed, batch_size=args.per_device_eval_batch_size)
        rows["forget"] = answers.beside(rows["forget"], found)
    return _streams(model, args, tokenizer, rows, unchanged)._replace(subjects=subjects)


def _streams(
    model: PeftModel, args: UnlearnConfig, tokenizer: PreTrainedTokenizerBase, rows: dict[str, Dataset], unchanged: Sequence[Dataset]
) -> Streams:
    """What is evaluated and what is trained on, of complete sets and of what is to stay as it is beside them."""
    holdout_target, changed, kept, checked = None, 1.0, list[int](), list[int]()
    if "holdout" in rows:
        kept, checked = held.split(len(rows["holdout"]), args.holdout_kl)
    inner_target = mean_recall(rows["forget"]["target_inner"]) if "target_inner" in rows["forget"].column_names else None
    rows["forget"] = _without(rows["forget"], "target_inner")
    if args.stop_at == "none":
        rows["forget"] = _without(rows["forget"], "target_logps")
    else:
        some = [checked[i] for i in sampled(len(checked))]
        rows["forget"], holdout_target, changed = targets.find(args, model, tokenizer, rows, some)
    rows = {name: found if name == "forget" else _without(found, "target_logps") for name, found in rows.items()}
    trained = {"forget": rows["forget"], "retain": rows["retain"]}
    if kept or unchanged:
        trained["holdout"] = held.unchanged(*([rows["holdout"].select(kept)] if kept else []), *unchanged)
    if "holdout" in rows:
        rows["holdout"] = rows["holdout"].select(checked)
    lacking = list(rows["forget"]["alternate"]).count(None) if args.answers != "none" else 0
    if lacking and not objectives.teaches_answers(args):
        raise UserError(
            f"answers: {args.forget_loss} prefers another answer to each forget row, and {lacking} of {len(rows['forget'])} have none; "
            "write answers: refuse."
        )
    parting = None
    if objectives.teaches_answers(args):
        found = [row for row in rows["forget"]["alternate"] if row is not None]
        if found:
            trained["answers"], parting = Dataset.from_list(found), parted(rows["forget"])
        if lacking:
            logger.warning("answers: for %d of %d forget rows no other answer was found.", lacking, len(rows["forget"]))
        trained["forget"] = rows["forget"] = _without(rows["forget"], "alternate")
    return Streams(rows, trained, holdout_target, inner_target, parting=parting, changed=changed)


def evaluated(args: UnlearnConfig, probes: Mapping[str, Probe]) -> dict[str, Probe]:
    """The sets of a run without the holdout rows that it trains on: what it has held in its place says nothing of unseen text."""
    if "holdout" not in probes:
        return dict(probes)
    return {**probes, "holdout": probes["holdout"].select(held.split(len(probes["holdout"].rows), args.holdout_kl)[1])}


def _probe(
    dataset: Dataset,
    args: UnlearnConfig,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    name: str,
    *,
    reword: bool = False,
    reword_rows: int = 0,
    group_column: str | None = None,
    vocabulary: int | None = None,
) -> Probe:
    """Rows of at most `length` tokens, each with something to predict; of rows that are tokenized already, a check."""
    if not isinstance(dataset, Dataset):
        raise UserError(
            f"{name}: a Dataset is needed and this is a {type(dataset).__name__}, "
            "load a file with datasets.load_dataset('json', data_files=..., split='train')."
        )
    if len(dataset) == 0:
        raise UserError(f"{name}: it is empty, give at least one row.")
    if name != KEYS["forget"] and group_column not in dataset.column_names:
        group_column = None  # the key speaks of the forget set; others need not have the column
    if not is_tokenized(dataset):
        return probe(
            dataset,
            tokenizer,
            length,
            name=name,
            template_arguments=args.chat_template_kwargs,
            reword=reword,
            reword_rows=reword_rows,
            group_column=group_column,
        )
    for number, row in enumerate(dataset.select_columns(["input_ids", "labels"]).with_format("numpy"), 1):
        if fault := labels.fault(row["input_ids"], row["labels"], length, vocabulary):
            raise UserError(f"{name}: row {number} has {fault}.")
    return Probe(dataset, {}, *groups.find(dataset, name, group_column))


def _with_alternates(args: UnlearnConfig, tokenizer: PreTrainedTokenizerBase, length: int, given: Dataset, rows: Dataset) -> Dataset:
    """The tokenized forget `rows` with a column `alternate` where the loss reads it, made of the rows as they were `given`."""
    if args.answers in ("none", "natural"):  # a model is asked for natural ones later
        return rows if args.answers == "natural" else _without(rows, "alternate")
    if "alternate" in rows.column_names:
        _probe(Dataset.from_list(rows["alternate"]), args, tokenizer, length, "forget_dataset.alternate")
        return rows
    if is_tokenized(given):
        raise UserError(f"answers: {args.answers} needs text, give the tokenized forget rows a column alternate.")
    # A preference is for many answers, as published. What is taught beside the push is one: which one a row gets could only be learnt by heart.
    varied = not objectives.teaches_answers(args)
    others = data.alternates(given, args.answers, seed=args.seed, varied=varied, refusal=args.refusal)
    return rows.add_column("alternate", _probe(others, args, tokenizer, length, "forget_dataset").rows.to_list())


def _check_apart(sets: Mapping[str, Dataset], name: str) -> None:
    """Refuse forget rows that also stand in the set `name`; of tokenized rows, which may be alike only as they were cut, warn."""
    try:
        data.check_apart(sets["forget"], sets[name], KEYS[name])
    except UserError as error:
        if not is_tokenized(sets["forget"]):
            raise
        logger.warning("Warning: as they are tokenized, %s", error)


def _without(rows: Dataset, column: str) -> Dataset:
    """Rows without what this run does not read; a model's input would hold it otherwise."""
    return rows.remove_columns(column) if column in rows.column_names else rows
