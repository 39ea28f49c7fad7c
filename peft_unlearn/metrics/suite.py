"""One model on one set of rows: every metric that is registered, with its value for each row.

What a metric `needs` says what is done for it, and the names of its positional parameters say what of a row it gets:

- "scores": the row is scored. `score` is its RowScore, `labels` the text that its labels say, `right_answer` the RowScore of its first paraphrased
  answer, or of the row itself; `paraphrased_question`, `paraphrased_answer` and `perturbed_answer` are lists of RowScores of its other wordings.
- "text": it is answered as well, greedily. `reference` is the right answer's text, `answer` the model's.
- "samples": several answers are drawn. It gets the ROUGE-L recall of each and k, and is reported for each k, as `leak_at_4`.
- "layers": model, tokenizer and rows as they are, for what is read inside the model; it gives a Result.

A row gives None where it has nothing to measure. A metric that needs nothing of these is of a set as a whole, or of a benchmark's own.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.rows import Row, answer_texts, text
from peft_unlearn.metrics.leak_at import told
from peft_unlearn.metrics.results import Evaluation
from peft_unlearn.model import generation
from peft_unlearn.model.scoring import score
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.parts import Metric
from peft_unlearn.util.registry import METRICS

Variants = Mapping[str, Sequence[Sequence[Row]]]

WORDINGS = ("paraphrased_question", "paraphrased_answer", "perturbed_answer")  # which not every set has
READS = {
    "scores": ("score", "labels", "right_answer", *WORDINGS),
    "text": ("score", "labels", "right_answer", *WORDINGS, "reference", "answer"),
}


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    *,
    variants: Variants | None = None,
    batch_size: int = 16,
    generate: bool = True,
    lens: bool = False,
    label: str = "evaluating",
) -> Evaluation:
    """Everything that can be measured of `rows` under the active adapters.

    Metrics of scores always, but those of other wordings only where `variants` has them; metrics of text with `generate`, those of layers with
    `lens`. Samples cost more, and are drawn by `sampled`.

    Args:
        variants: other wordings of the rows, as `variants.probe` makes them, a list for each row.
        label: stands before the progress bars.

    Raises:
        UserError: a metric of another package asks for what there is not.
    """
    rows, variants = list(rows), variants or {}
    of_rows = _scored(model, tokenizer, rows, variants, batch_size, label)
    values = _measured("scores", of_rows)
    answers: list[str] = []
    if generate:
        answers = generation.generate(model, tokenizer, rows, batch_size=batch_size, progress=f"{label}: answering")
        values |= _measured("text", {**of_rows, "reference": answer_texts(tokenizer, rows), "answer": answers})
    evaluation = Evaluation(values, answers)
    for name, metric in needing("layers").items() if lens else ():
        progress = f"{label}: {name.replace('_', ' ')}"
        evaluation[name] = metric(model, tokenizer, rows, batch_size=batch_size, progress=progress)
    return evaluation


def sampled(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    ks: Sequence[int],
    *,
    batch_size: int = 16,
    progress: str = "sampling",
) -> Evaluation:
    """The metrics of samples for each k, from one draw of max(ks) answers to each row."""
    drawn = told(model, tokenizer, rows, max(ks), batch_size=batch_size, progress=progress)
    return Evaluation({f"{name}_{k}": [metric(row, k) for row in drawn] for name, metric in needing("samples").items() for k in ks}, [])


def needing(what: str) -> dict[str, Metric]:
    """The registered metrics that need this, in their order."""
    return {metric.name: metric for metric in sorted(METRICS.values(), key=lambda metric: metric.order) if metric.needs == what}


def described(key: str) -> Metric | None:
    """The metric behind a key of a report; of leak_at_16 and min_k_auc, which are of a family, leak_at and auc. None where there is none."""
    family = (part for name, part in METRICS.items() if part.family and (key.startswith(f"{name}_") or key.endswith(f"_{name}")))
    return METRICS[key] if key in METRICS else next(family, None)


def _scored(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[Row], variants: Variants, batch_size: int, label: str
) -> dict[str, Sequence[Any]]:
    """What metrics of scores can read, a value for each row; all is scored in one go."""
    reworded = [row for groups in variants.values() for group in groups for row in group]
    scores = score(model, [*rows, *reworded], tokenizer, batch_size=batch_size, progress=f"{label}: scoring")
    own, rest = scores[: len(rows)], iter(scores[len(rows) :])
    others = {kind: [[next(rest) for _ in group] for group in groups] for kind, groups in variants.items()}
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


def _label_texts(tokenizer: PreTrainedTokenizerBase, rows: Iterable[Row]) -> list[str]:
    """What the labels of each row say: of plain text all but its first token, where `answer_texts` gives the half that is to be written."""
    return [text(tokenizer, [label for label in row["labels"][1:] if label != IGNORE]) for row in rows]
