"""One model on one set of rows: every metric, with its value for each row."""

from collections.abc import Iterable, Mapping, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.rows import Row, answer_texts, text
from peft_unlearn.metrics.fluency import degenerate
from peft_unlearn.metrics.logit_lens import logit_lens
from peft_unlearn.metrics.results import Evaluation, Result, summarise
from peft_unlearn.metrics.teacher_forced import TEACHER_FORCED, rouge_l, worst_of_k, zlib
from peft_unlearn.metrics.truth_ratio import truth_ratio
from peft_unlearn.model import generation
from peft_unlearn.model.scoring import RowScore, score

__all__ = ["Evaluation", "Result", "evaluate", "summarise"]

Variants = Mapping[str, Sequence[Sequence[Row]]]


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

    Loss, probability, extraction strength, exact memorisation, Min-K, Min-K++ and zlib always; the truth ratio with wrong answers among the
    variants, and worst-of-k with paraphrased questions; ROUGE-L and degenerate answers with `generate`; the logit lens with `lens`.

    Args:
        variants: other wordings of the rows, as `probes.probe` makes them, a list for each row. Of several paraphrased answers the first one
            is the truth ratio's right answer; of none, the row's own.
        label: stands before the progress bars.
    """
    rows, variants = list(rows), variants or {}
    reworded = [row for groups in variants.values() for group in groups for row in group]
    scores = score(model, [*rows, *reworded], tokenizer, batch_size=batch_size, progress=f"{label}: scoring")
    own, rest = scores[: len(rows)], iter(scores[len(rows) :])
    others = {kind: [[next(rest) for _ in group] for group in groups] for kind, groups in variants.items()}

    values: dict[str, list[float | None]] = {name: [metric(row) for row in own] for name, metric in TEACHER_FORCED.items()}
    values["zlib"] = [zlib(row, learnt) for row, learnt in zip(own, _learnt_texts(tokenizer, rows), strict=True)]
    values |= _of_variants(own, others)
    answers: list[str] = []
    if generate:
        answers = generation.generate(model, tokenizer, rows, batch_size=batch_size, progress=f"{label}: answering")
        values["rouge_l"] = [rouge_l(reference, answer) for reference, answer in zip(answer_texts(tokenizer, rows), answers, strict=True)]
        values["degenerate"] = [degenerate(answer) for answer in answers]
    evaluation = Evaluation(values, answers)
    if lens:
        evaluation["logit_lens"] = logit_lens(model, tokenizer, rows, batch_size=batch_size, progress=f"{label}: logit lens")
    return evaluation


def _of_variants(own: list[RowScore], others: Mapping[str, list[list[RowScore]]]) -> dict[str, list[float | None]]:
    """The metrics that compare a row with its other wordings, where the set has them."""
    values: dict[str, list[float | None]] = {}
    if "perturbed_answer" in others:
        paraphrased = others.get("paraphrased_answer", [[] for _ in own])
        right = [found[0] if found else row for found, row in zip(paraphrased, own, strict=True)]
        values["truth_ratio"] = [truth_ratio(wrong, one) for wrong, one in zip(others["perturbed_answer"], right, strict=True)]
    if "paraphrased_question" in others:
        values["worst_of_k"] = [worst_of_k(row, found) for row, found in zip(own, others["paraphrased_question"], strict=True)]
    return values


def _learnt_texts(tokenizer: PreTrainedTokenizerBase, rows: Iterable[Row]) -> list[str]:
    """What the labels of each row say: of plain text all but its first token, where `answer_texts` gives the half that is to be written."""
    return [text(tokenizer, [label for label in row["labels"][1:] if label != IGNORE]) for row in rows]
