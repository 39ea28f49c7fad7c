"""Targets: the log-probability that each token of the forget set would have, had the model never seen it. Where `stop_at` ends a run.

Known from a never-seen model (`of_never_seen`), or estimated before training from rows of the same kind that nobody learnt (`estimated`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from peft import PeftModel
from scipy.stats import norm, rankdata
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.config.unlearn_config import UnlearnConfig
from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.prompt_dropout import PromptDropout
from peft_unlearn.data.rows import end_length, evenly, special_ids, vocabulary
from peft_unlearn.metrics.min_k import LOWEST
from peft_unlearn.model import adapters
from peft_unlearn.model.scoring import score
from peft_unlearn.util.errors import UserError

LONGEST = 5  # tokens of an n-gram; docs/log.md has the errors for 1 to 5
FREQUENCIES = (0.02, 0.1, 0.5, 0.9)  # bounds between rare and certain continuations
FEWEST = 5  # holdout tokens that make a kind; a rarer one borrows from its neighbor

LOST = "target_lost"  # column of what a never-seen model loses in changed prompts
CHANGED = 128  # rows by which it is told how much less likely a changed prompt makes them

BINS = len(FREQUENCIES) + 1


class Targets(NamedTuple):
    """Where a run stops.

    Args:
        forget: the forget set with its `target_logps`.
        holdout: (n,) Min-K of the holdout rows that checks see, under the same never-seen model; None without a holdout.
        changed: factor of a row's targets where its prompt is changed (`PromptDropout`), 1 at least.
    """

    forget: Dataset
    holdout: np.ndarray | None
    changed: float


def find(
    args: UnlearnConfig, model: PeftModel, tokenizer: PreTrainedTokenizerBase, sets: Mapping[str, Dataset], checked: Sequence[int]
) -> Targets:
    """Where a run stops, by what a never-seen model has said or as it is estimated.

    Args:
        sets: tokenized "forget", "retain" and maybe "holdout"; with `stop_at: never_seen` forget and holdout bring what that model says.
        checked: numbers of those holdout rows; none without a holdout, and then there is no Min-K.

    Raises:
        UserError: nothing that `args.stop_at` could stop by.
    """
    forget, holdout = sets["forget"], sets.get("holdout")
    if args.stop_at == "auto":
        if holdout is None:
            raise UserError(
                "stop_at: 'auto' estimates from rows of the forget set's kind that the model never saw, give a holdout_dataset, "
                "or write stop_at: none."
            )
        with adapters.view(model, "reference"):
            logps = scored(model, tokenizer, holdout, args.per_device_eval_batch_size)
            losses = lost_in_changed_prompts(model, args, tokenizer, holdout, logps) if args.prompt_dropout else [0.0]
        measured, some = (known(sets["retain"], forget), holdout, logps), holdout.select(checked)
        found, there = (estimated(rows, sets["retain"], *measured, seed=args.seed) for rows in (forget, some))
        return Targets(with_targets(forget, found), min_ks(there, end_lengths(tokenizer, some)), _factor(logps, losses))
    changed = 1.0
    if LOST in forget.column_names:
        changed, forget = _factor(read(forget), forget[LOST]), forget.remove_columns(LOST)
    if holdout is None or "target_logps" not in holdout.column_names:
        return Targets(forget, None, changed)
    some = holdout.select(checked)
    return Targets(forget, min_ks(read(some), end_lengths(tokenizer, some)), changed)


def of_never_seen(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, sets: Mapping[str, Dataset], batch_size: int
) -> dict[str, Dataset]:
    """The tokenized sets "forget" and "holdout", where they are among `sets`, with a column `target_logps` of what a never-seen model says."""
    return {
        name: with_targets(rows, scored(model, tokenizer, rows, batch_size)) for name, rows in sets.items() if name in ("forget", "holdout")
    }


def changing(
    model: Any, args: UnlearnConfig, tokenizer: PreTrainedTokenizerBase, target_scale: float = 1.0
) -> Callable[[Dataset], PromptDropout]:
    """What makes a set's `PromptDropout` as the run trains with it."""
    words = vocabulary(tokenizer, len(model.get_input_embeddings().weight))
    return partial(PromptDropout, share=args.prompt_dropout, vocabulary=words, target_scale=target_scale)


def lost_in_changed_prompts(
    model: Any, args: UnlearnConfig, tokenizer: PreTrainedTokenizerBase, rows: Dataset, logps: Sequence[np.ndarray]
) -> list[float | None]:
    """By how many nats a token each row becomes less likely after a prompt that `PromptDropout` has changed; None of rows that were not looked at.

    Args:
        rows: tokenized; some of them are looked at, evenly spaced.
        logps: for each row the (T,) log-probabilities of its label tokens as it stands. Of a text that begins later, its last ones are compared.
    """
    dropout, some = changing(model, args, tokenizer)(rows), evenly(len(rows), CHANGED)
    texts = rows.select_columns(["input_ids", "labels"])
    changed = [dropout(texts[row], np.random.default_rng([args.seed, row])) for row in some]
    found = scored(model, tokenizer, changed, args.per_device_eval_batch_size)
    losses = {row: float(logps[row][-len(now) :].mean() - now.mean()) for row, now in zip(some, found, strict=True)}
    return [losses.get(row) for row in range(len(rows))]


def _factor(logps: Sequence[np.ndarray], losses: Sequence[float | None]) -> float:
    """The factor by which rows' mean log-probability sinks with such losses; none that would raise it."""
    return max(1.0, 1 - float(np.mean([loss for loss in losses if loss is not None])) / mean(logps))


def known(retain: Iterable[dict[str, Any]], forget: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The text that tells of the holdout: the retain set and every second row of the forget set (docs/concepts/target-estimate.md says why half)."""
    return [*retain, *list(forget)[::2]]


def mean(rows: Sequence[np.ndarray]) -> float:
    """Mean over rows of their mean log-probability."""
    return float(np.mean([logps.mean() for logps in rows]))


def end_lengths(tokenizer: PreTrainedTokenizerBase, rows: Iterable[dict[str, Any]]) -> list[int]:
    """Number of end tokens among the label tokens of each tokenized row."""
    special = special_ids(tokenizer)
    return [end_length(tokenizer, special, [label for label in row["labels"][1:] if label != IGNORE]) for row in rows]


def min_ks(rows: Sequence[np.ndarray], ends: Sequence[int]) -> np.ndarray:
    """Min-K of each row as it is reported (`metrics.min_k`), the mean of its lowest 40 % log-probabilities, end tokens out: (n,).

    A row of nothing but end tokens has none and is left out.
    """
    texts = [logps[: len(logps) - end] for logps, end in zip(rows, ends, strict=True)]
    return np.array([np.sort(logps)[: max(1, int(LOWEST * len(logps)))].mean() for logps in texts if len(logps)])


def mean_distance(rows: Dataset) -> float:
    """Mean over label tokens of |target|, in nats: about how far memorized text has to go."""
    return float(np.mean(np.abs(np.concatenate(read(rows)))))


def with_targets(rows: Dataset, target_logps: Sequence[np.ndarray]) -> Dataset:
    """Tokenized rows with a column `target_logps`: for each label token its target in nats, 0 elsewhere.

    Args:
        target_logps: for each row the (T,) targets of its label tokens, in order; the first token of a row is never among them.
    """
    column = []
    for labels, target in zip(rows["labels"], target_logps, strict=True):
        aligned = np.zeros(len(labels))
        aligned[1:][np.asarray(labels[1:]) != IGNORE] = target
        column.append(aligned.tolist())
    return (rows.remove_columns("target_logps") if "target_logps" in rows.column_names else rows).add_column("target_logps", column)


def read(rows: Dataset) -> list[np.ndarray]:
    """The (T,) targets of each row, from its column `target_logps`."""
    return [np.asarray(row["target_logps"][1:])[np.asarray(row["labels"][1:]) != IGNORE] for row in rows]


def scored(model: Any, tokenizer: PreTrainedTokenizerBase, rows: Iterable[dict[str, Any]], batch_size: int) -> list[np.ndarray]:
    """The (T,) log-probabilities of each row's label tokens under the active adapters: its targets, if the model never saw the rows."""
    return [row.logps for row in score(model, rows, tokenizer, batch_size=batch_size, progress="targets")]


def estimated(
    rows: Iterable[dict[str, Any]],
    seen: Iterable[dict[str, Any]],
    seen_now: Iterable[dict[str, Any]],
    holdout: Iterable[dict[str, Any]],
    holdout_logps: Sequence[np.ndarray],
    *,
    seed: int,
) -> list[np.ndarray]:
    """Targets of rows under a model that had seen nothing but `seen`, without any such model.

    A token that was never seen is as likely as text that *was* seen makes it. So tokens are sorted into kinds by two numbers of the back-off
    n-gram model of that text: the length of the longest n-gram that ends in the token and occurs there, and how often the token follows the
    longest context that does. The holdout tells what log-probabilities tokens of each kind get from this very model, before training, which has
    seen the forget set as well. Each token of `rows` is given one of its kind's values, so that their distribution is the holdout's: evenly
    spaced quantiles, in a random order in which the rows differ as much from one another as the holdout's do.

    Args:
        rows, seen, seen_now, holdout: tokenized rows (`input_ids`, `labels`): those whose targets are wanted; the text to be known (the retain
            set); the text that is known (`known`); rows that are not.
        holdout_logps: for each holdout row the (T,) log-probabilities of its label tokens, in nats, under the model before training.
        seed: of the order.

    Returns:
        For each row its (T,) targets. Against true never-seen models the mean of a forget set is within 12 % (docs/concepts/target-estimate.md).

    Source: back-off after Katz 1987, with counts over the whole text as in arXiv 2401.17377 (infini-gram); the use is our own.
    """
    (of_holdout, sizes), (of_rows, lengths) = _kinds(list(holdout), seen_now), _kinds(list(rows), seen)
    logps = np.concatenate(list(holdout_logps))
    there, counts = np.unique(of_holdout, return_counts=True)
    full = there[counts >= FEWEST] if (counts >= FEWEST).any() else there

    def tokens_of(kinds: np.ndarray) -> dict[int, np.ndarray]:
        found, places = np.unique(kinds, return_inverse=True)
        nearest = np.array([_nearest(kind, full) for kind in found], np.int64)[places]
        return {int(kind): np.flatnonzero(nearest == kind) for kind in full}

    pools = tokens_of(of_holdout)
    between = _between_rows(logps, list(pools.values()), sizes)
    rng = np.random.default_rng(seed)
    order = np.sqrt(between) * np.repeat(rng.standard_normal(len(lengths)), lengths) + np.sqrt(1 - between) * rng.standard_normal(
        sum(lengths)
    )
    target_logps = np.zeros(sum(lengths))
    for kind, here in tokens_of(of_rows).items():
        target_logps[here[order[here].argsort()]] = np.quantile(logps[pools[kind]], (np.arange(len(here)) + 0.5) / max(1, len(here)))
    return np.split(target_logps, np.cumsum(lengths)[:-1])


def _between_rows(logps: np.ndarray, kinds: Sequence[np.ndarray], lengths: Sequence[int]) -> float:
    """Share of what is left within kinds that lies between rows: the intraclass correlation of normal scores, one-way analysis of variance."""
    scores = np.zeros(len(logps))
    for here in kinds:
        scores[here] = norm.ppf((rankdata(logps[here]) - 0.5) / len(here))
    rows, sizes = np.split(scores, np.cumsum(lengths)[:-1]), np.asarray(lengths)
    total, groups = len(scores), len(rows)
    if groups < 2 or total == groups:
        return 0.0
    within = sum(float(((row - row.mean()) ** 2).sum()) for row in rows) / (total - groups)
    between = sum(len(row) * float((row.mean() - scores.mean()) ** 2) for row in rows) / (groups - 1)
    size = (total - float((sizes**2).sum()) / total) / (groups - 1)
    return float(np.clip((between - within) / max(between + (size - 1) * within, 1e-12), 0.0, 1.0))


def _nearest(kind: int, kinds: Iterable[int]) -> int:
    def distance(other: int) -> int:
        return sum(abs(one - two) for one, two in zip(divmod(kind, BINS), divmod(other, BINS), strict=True))

    return min(kinds, key=lambda other: (distance(other), other))


def _kinds(rows: Sequence[dict[str, Any]], text: Iterable[dict[str, Any]]) -> tuple[np.ndarray, list[int]]:
    """The kind of each label token, row after row, as length of the longest n-gram * `BINS` + bin of the frequency; and each row's number of them."""
    both = [np.asarray(row["input_ids"], np.int64) for some in (rows, text) for row in some]
    place = np.concatenate([np.arange(len(tokens)) for tokens in both])
    own = sum(map(len, both[: len(rows)]))
    counts = _counts(np.concatenate(both), place, own)
    labeled = [np.flatnonzero(np.asarray(row["labels"][1:]) != IGNORE) + 1 for row in rows]
    starts = np.cumsum([0, *map(len, both[: len(rows)])])
    at = np.concatenate([start + found for start, found in zip(starts, labeled, strict=False)])
    length, frequency = np.zeros(len(at), np.int64), np.zeros(len(at))
    for n in range(1, LONGEST + 1):  # the longest one is the last that is set
        length[counts[n - 1, at] > 0] = n
        if n < LONGEST:
            here = (counts[n - 1, at - 1] > 0) & (place[at] >= n)
            frequency[here] = counts[n, at[here]] / counts[n - 1, at[here] - 1]
    return length * BINS + np.searchsorted(FREQUENCIES, frequency), [len(found) for found in labeled]


def _counts(tokens: np.ndarray, place: np.ndarray, own: int) -> np.ndarray:
    """How often the n-gram that ends in each of the first `own` tokens stands in the others: (`LONGEST`, own), n from 1; none reaches over a row.

    An n-gram goes by a number, that of the (n - 1)-gram before its last token and of that token: tuples take gigabytes of 100,000 rows.

    Args:
        place: of each token in its row.
    """
    counts = np.zeros((LONGEST, own), np.int64)
    _, first = np.unique(tokens, return_inverse=True)
    grams, size = first, int(first.max()) + 1
    for n in range(1, LONGEST + 1):
        whole = place >= n - 1
        if n > 1:
            pairs = np.where(whole, np.roll(grams, 1) * size + first, -1)
            grams = np.unique(pairs, return_inverse=True)[1]
        found = np.bincount(grams[own:][whole[own:]], minlength=int(grams.max()) + 1)
        counts[n - 1] = np.where(whole[:own], found[grams[:own]], 0)
    return counts
