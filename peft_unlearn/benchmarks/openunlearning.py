"""Rows as OpenUnlearning's data sets make them, and a set measured on them by its definitions (`metrics.openunlearning`).

docs/reference/openunlearning-metrics.md says where its rows differ from ours, and why.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.rows import Row, special_ids
from peft_unlearn.data.variants import Probe
from peft_unlearn.metrics import openunlearning as peer
from peft_unlearn.metrics.results import Evaluation
from peft_unlearn.model import generation
from peft_unlearn.model.scoring import RowScore, score

TEXT = 2048  # tokens of a text after its prompt
CONVERSATION = 512  # tokens of question and answer, with the examples before them
STOP_STRINGS = ("\n\n", "\nQuestion", "Question:")


class Asked(NamedTuple):
    """A prompt as a row, and the text that ROUGE holds the answer against."""

    row: Row
    reference: str


def completions(tokenizer: PreTrainedTokenizerBase, pairs: Iterable[tuple[str, str]], context: int) -> list[Row]:
    """(prompt, text) as one row each: special tokens as the tokenizer adds them, no end token, the text cut at `TEXT` tokens.

    Labels begin after as many tokens as the prompt alone has, at least one. Nothing is longer than the model's `context`.
    """
    rows: list[Row] = []
    for prompt, text in pairs:
        lead = len(_ids(tokenizer, prompt))
        ids = _ids(tokenizer, f"{prompt} {text}" if prompt else text)[: min(lead + TEXT, context)]
        start = min(max(1, lead), len(ids))
        rows.append({"input_ids": ids, "labels": [IGNORE] * start + ids[start:]})
    return rows


def continued(tokenizer: PreTrainedTokenizerBase, pairs: Iterable[tuple[str, str]], context: int) -> list[Asked]:
    """The prompts of `completions`, each with the whole of its text, as far as it is not cut."""
    pairs = list(pairs)
    found = []
    for (prompt, _), row in zip(pairs, completions(tokenizer, pairs, context), strict=True):
        start = _ids(tokenizer, prompt)
        found.append(_asked(tokenizer, start, _labels(row)))
    return found


def few_shot(
    tokenizer: PreTrainedTokenizerBase, rows: Iterable[Mapping[str, str]], examples: Iterable[Mapping[str, str]], context: int
) -> list[Asked]:
    """Questions behind `examples`, without a chat template, cut at `CONVERSATION` tokens; the prompt ends in "Answer: ", space included."""
    shots = "".join(f"Question: {one['question']}\nAnswer: {one['answer']}\n\n" for one in examples)
    longest = min(CONVERSATION, context)
    found = []
    for row in rows:
        prompt = f"{shots}Question: {row['question']}\nAnswer: "
        start, whole = (_ids(tokenizer, text, longest) for text in (prompt, prompt + row["answer"]))
        found.append(_asked(tokenizer, start, whole))
    return found


def rouge(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Asked],
    *,
    tokens: int,
    measure: str,
    batch_size: int,
    progress: str,
    stop_strings: Sequence[str] = (),
) -> tuple[list[float | None], list[str]]:
    """ROUGE-L of the greedy answers, and the answers; one ends where the model's generation_config says, or before a stop string."""
    answers = generation.generate(
        model,
        tokenizer,
        [one.row for one in asked],
        batch_size=batch_size,
        max_new_tokens=tokens,
        end_tokens=generation.own_end_tokens(model),
        stop_strings=stop_strings,
        progress=progress,
    )
    return [peer.rouge_l(one.reference, answer, measure) for one, answer in zip(asked, answers, strict=True)], answers


def forced(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], batch_size: int, progress: str
) -> tuple[dict[str, list[float | None]], list[RowScore]]:
    """The metrics of scores of each row, and the scores. zlib compresses the text of all labels, white space included."""
    scores = score(model, rows, tokenizer, batch_size=batch_size, progress=progress)
    values: dict[str, list[float | None]] = {name: [metric(one) for one in scores] for name, metric in peer.SCORES.items()}
    texts = [str(tokenizer.decode(_labels(row), skip_special_tokens=True)) for row in rows]
    values["zlib"] = [peer.zlib(one, text) for one, text in zip(scores, texts, strict=True)]
    return values, scores


def measured(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probe: Probe, batch_size: int, *, label: str, forget: bool, generate: bool
) -> Evaluation:
    """Questions and their other answers: TOFU's metrics of one set."""
    ended = partial(_ended, tokenizer=tokenizer, special=special_ids(tokenizer), context=generation.context_length(model))
    rows = [ended(row) for row in probe.rows]
    values, own = forced(model, tokenizer, rows, batch_size, f"{label}: scoring")
    groups = {kind: probe.variants[kind] for kind in ("paraphrased_answer", "perturbed_answer") if kind in probe.variants}
    reworded = [ended(row) for kind in groups.values() for group in kind for row in group]
    rest = iter(score(model, reworded, tokenizer, batch_size=batch_size, progress=f"{label}: scoring other wordings"))
    others: dict[str, list[list[RowScore]]] = {kind: [[next(rest) for _ in group] for group in found] for kind, found in groups.items()}
    if "perturbed_answer" in others:
        wrong = others["perturbed_answer"]
        right = [found[0] if found else row for found, row in zip(others.get("paraphrased_answer", [[]] * len(own)), own, strict=True)]
        ratios = values["truth_ratio"] = [peer.truth_ratio(several, one) for several, one in zip(wrong, right, strict=True)]
        values["truth_ratio_score"] = [(peer.closer_to_1_better if forget else peer.true_better)(ratio) for ratio in ratios]
        if "paraphrased_answer" not in others:
            values["normalized_probability"] = [peer.normalized_probability(one, several) for one, several in zip(own, wrong, strict=True)]
    answers: list[str] = []
    if generate:
        asked = [Asked(row, str(tokenizer.decode(_labels(row), skip_special_tokens=True)).strip()) for row in rows]
        values["rouge_l"], answers = rouge(
            model,
            tokenizer,
            asked,
            tokens=peer.MAX_NEW_TOKENS,
            measure="recall",
            batch_size=batch_size,
            progress=f"{label}: answering",
        )
    return Evaluation(values, answers)


def _asked(tokenizer: PreTrainedTokenizerBase, prompt: list[int], labels: list[int]) -> Asked:
    """The reference is what is left of the labels' text without the prompt's."""
    start, whole = (str(tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in (prompt, labels))
    return Asked({"input_ids": prompt, "labels": [IGNORE] * len(prompt)}, whole.replace(start, "").strip())


def _ended(row: Row, tokenizer: PreTrainedTokenizerBase, special: set[int], context: int) -> Row:
    """A conversation with an end token behind it, also where the chat template ends in a line break or max_length cut it; texts as they are."""
    tokens, labels, end = list(row["input_ids"]), list(row["labels"]), tokenizer.eos_token_id
    prompt = takewhile(lambda pair: pair[1] == IGNORE, zip(tokens, labels, strict=True))
    asks = sum(token not in special for token, _ in prompt) > 1  # the first token of a text has no label either
    if not asks or end is None or tokens[-1] == end or len(tokens) >= context:
        return row
    return {"input_ids": [*tokens, end], "labels": [*labels, end]}


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, longest: int | None = None) -> list[int]:
    ids: list[int] = tokenizer(text, max_length=longest, truncation=longest is not None, verbose=False)["input_ids"]
    return ids


def _labels(row: Row) -> list[int]:
    return [label for label in row["labels"] if label != IGNORE]
