"""One model on one set of rows: every metric that is registered, with its value for each row.

What a metric `needs` says what is done for it, and the names of its positional parameters say what of a row it gets:

- "scores": the row is scored. `score` is its RowScore, `labels` the text that its labels say, `right_answer` the RowScore of its first paraphrased
  answer, or of the row itself; `paraphrased_question`, `paraphrased_answer` and `perturbed_answer` are lists of RowScores of its other wordings, and
  `reworded` of all that ask otherwise, those of `paraphrased_question` and those made by rules.
- "text": it is answered as well, greedily. `question` is what it is asked, `reference` the right answer's text, `answer` the model's. What all rows
  share, where the caller knows it: `others`, the forget set's answers, `known`, runs of words of texts that are not to be forgotten, `kept`, those
  of them that a model was taught, and `lexicon`.
- "samples": several answers are drawn. Of each there is ROUGE-L recall, `told`, and `verbatim`, `recited`; with `k` it is reported for each k, as
  `leak_at_4`.
- "layers": model, tokenizer and rows as they are, for what is read inside the model; it gives a Result.

A row gives None where it has nothing to measure. A metric that needs nothing of these is of a set as a whole, or of a benchmark's own.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.rows import Row, answer_texts, special_ids, split, text
from peft_unlearn.metrics.results import Evaluation
from peft_unlearn.metrics.rouge_l import rouge_l
from peft_unlearn.metrics.verbatim import verbatim
from peft_unlearn.model import generation
from peft_unlearn.model.scoring import RowScore, score
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.parts import Metric
from peft_unlearn.util.registry import METRICS

Variants = Mapping[str, Sequence[Sequence[Row]]]

ASKED = ("paraphrased_question", "reworded")  # kinds of wordings that ask for the same answer
SCORED = ("score", "labels", "right_answer", *ASKED, "paraphrased_answer", "perturbed_answer")  # wordings where the set has them
SHARED = ("others", "known", "kept", "lexicon")  # where the caller gives them
READS = {
    "scores": SCORED,
    "text": (*SCORED, "question", "reference", "answer", *SHARED),
    "samples": ("told", "recited", "k"),
}


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    *,
    variants: Variants | None = None,
    shared: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    generate: bool = True,
    lens: bool = False,
    label: str = "evaluating",
) -> Evaluation:
    """Everything that can be measured of `rows` under the active adapters.

    Metrics of scores always, but those of other wordings only where `variants` has them; metrics of text with `generate`, those of `shared` texts
    only where these are given; those of layers with `lens`. Samples cost more, and are drawn by `sampled`.

    Args:
        variants: other wordings of the rows, as `variants.probe` makes them, a list for each row.
        shared: of `SHARED` what there is: {"others": Recitable, "known" and "kept": runs of words, "lexicon": words}.
        label: stands before the progress bars.

    Raises:
        UserError: a metric of another package asks for what there is not.
    """
    rows, variants = list(rows), variants or {}
    further = [row for groups in variants.values() for group in groups for row in group]
    scores = score(model, [*rows, *further], tokenizer, batch_size=batch_size, progress=f"{label}: scoring")
    answers = generation.generate(model, tokenizer, rows, batch_size=batch_size, progress=f"{label}: answering") if generate else None
    evaluation = told(tokenizer, rows, scores, answers, variants=variants, shared=shared)
    for name, metric in needing("layers").items() if lens else ():
        progress = f"{label}: {name.replace('_', ' ')}"
        evaluation[name] = metric(model, tokenizer, rows, batch_size=batch_size, progress=progress)
    return evaluation


def told(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    scores: Sequence[RowScore],
    answers: list[str] | None,
    *,
    variants: Variants | None = None,
    shared: Mapping[str, Any] | None = None,
) -> Evaluation:
    """What scores and answers tell of rows, whatever gave them: the metrics of scores, and of text where there are answers.

    Args:
        scores: of the rows, and then of their other wordings, in the order of `variants`.
        answers: to the rows, greedy.
        variants, shared: as in `evaluate`.
    """
    of_rows = _columns(tokenizer, rows, scores, variants or {})
    values = _measured("scores", of_rows)
    if answers is not None:
        texts = {"question": _questions(tokenizer, rows), "reference": answer_texts(tokenizer, rows), "answer": answers}
        known = {name: [value] * len(rows) for name, value in (shared or {}).items()}
        values |= _measured("text", {**of_rows, **texts, **known})
    return Evaluation(values, answers or [])


def sampled(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    ks: Sequence[int],
    *,
    seed: int = 0,
    batch_size: int = 16,
    progress: str = "sampling",
) -> Evaluation:
    """The metrics of samples for each k, from one draw of max(ks) answers to each row, as `generation.sample` draws them."""
    rows = list(rows)
    drawn = generation.sample(model, tokenizer, rows, max(ks), seed=seed, batch_size=batch_size, progress=progress)
    pairs = list(zip(answer_texts(tokenizer, rows), drawn, strict=True))
    of_rows = {
        "told": [[rouge_l(reference, answer) for answer in answers] for reference, answers in pairs],
        "recited": [[verbatim(reference, answer) for answer in answers] for reference, answers in pairs],
    }
    by_k = {k: _measured("samples", {**of_rows, "k": [k] * len(rows)}) for k in ks}
    return Evaluation({f"{name}_{k}": by_k[k][name] for name in needing("samples") for k in ks}, [])


def needing(what: str) -> dict[str, Metric]:
    """The registered metrics that need this, in their order."""
    return {metric.name: metric for metric in sorted(METRICS.values(), key=lambda metric: metric.order) if metric.needs == what}


def described(key: str) -> Metric | None:
    """The metric behind a key of a report; of leak_at_16 and min_k_auc, which are of a family, leak_at and auc. None where there is none."""
    family = (part for name, part in METRICS.items() if part.family and (key.startswith(f"{name}_") or key.endswith(f"_{name}")))
    return METRICS[key] if key in METRICS else next(family, None)


def _columns(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], scores: Sequence[RowScore], variants: Variants
) -> dict[str, Sequence[Any]]:
    """What metrics of scores can read, a value for each row."""
    own, rest = scores[: len(rows)], iter(scores[len(rows) :])
    others = {kind: [[next(rest) for _ in group] for group in groups] for kind, groups in variants.items()}
    if asked := [others[kind] for kind in ASKED if kind in others]:
        others["reworded"] = [[one for group in groups for one in group] for groups in zip(*asked, strict=True)]
    paraphrased = others.get("paraphrased_answer", [[] for _ in own])
    right = [found[0] if found else row for found, row in zip(paraphrased, own, strict=True)]
    return {"score": own, "labels": _label_texts(tokenizer, rows), "right_answer": right, **others}


def _measured(needs: str, of_rows: Mapping[str, Sequence[Any]]) -> dict[str, list[float | None]]:
    """Every metric that needs this, of each row; without those whose wordings the set does not have."""
    values: dict[str, list[float | None]] = {}
    for name, metric in needing(needs).items():
        if strange := [read for read in metric.reads if read not in READS[needs]]:
            raise UserError(
                f"{name}: the metric reads {strange[0]!r}, and of a row with needs={needs!r} there are {', '.join(READS[needs])}; rename it."
            )
        if all(read in of_rows for read in metric.reads):
            columns = (of_rows[read] for read in metric.reads)
            values[name] = [metric(*arguments) for arguments in zip(*columns, strict=True)]
    return values


def _questions(tokenizer: PreTrainedTokenizerBase, rows: Iterable[Row]) -> list[str]:
    """What each row's answer is asked with; of plain text its first half."""
    special = special_ids(tokenizer)
    return [text(tokenizer, split(row, special)[0]) for row in rows]


def _label_texts(tokenizer: PreTrainedTokenizerBase, rows: Iterable[Row]) -> list[str]:
    """What the labels of each row say: of plain text all but its first token, where `answer_texts` gives the half that is to be written."""
    return [text(tokenizer, [label for label in row["labels"][1:] if label != IGNORE]) for row in rows]
