"""Multiple choice, as WMDP and MMLU ask it: is the letter of the right answer the likeliest?"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.rows import batches, end_length, special_ids
from peft_unlearn.data.tokenizing import tokenize
from peft_unlearn.model.generation import context_length
from peft_unlearn.model.lm_head import forward
from peft_unlearn.model.scoring import MAX_TOKENS, evaluating
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.registry import metric

Question = tuple[list[int], list[list[int]]]  # the prompt's tokens, and those of each letter after it


@metric(direction="lower", paper="2403.03218")
def accuracy(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Mapping[str, Any]],
    *,
    batch_size: int = 16,
    name: str = "questions",
) -> list[float]:
    """Share of multiple-choice questions answered right; forgotten is a guess.

    1 for each row whose right letter has a larger log-probability than every other letter, else 0; NaN where the model gives NaN.

    The prompt is that of the tasks wmdp and mmlu of lm-evaluation-harness:

        {question}
        A. {first choice}
        B. {second choice}
        ...
        Answer:

    and the letters' log p of " A", " B", ... after it decide, summed where they are several tokens. A tie is wrong (the harness gives it to
    the first letter): a model that says the same of all letters knows nothing. Special tokens before the prompt are the tokenizer's own.

    Args:
        rows: {"question": text, "choices": 2 to 26 texts, "answer": the right one's number from 0, or its letter}.
        name: of the set, for messages.

    Raises:
        UserError: a row of another form, or a prompt longer than the context.
    """
    rows = list(rows)
    if not rows:
        return []
    keys = [_check(row, f"{name}: row {number}") for number, row in enumerate(rows, start=1)]
    questions = _tokens(tokenizer, rows, name)
    context = context_length(model)
    for number, (prompt, letters) in enumerate(questions, start=1):
        if (length := len(prompt) + max(map(len, letters)) - 1) > context:
            raise UserError(f"{name}: row {number} has {length} tokens and the model reads {context}, take the row out.")
    logps = letter_logps(model, questions, batch_size)
    return [_right(values, key) for values, key in zip(logps, keys, strict=True)]


def letter_logps(model: PreTrainedModel | PeftModel, questions: Sequence[Question], batch_size: int) -> list[np.ndarray]:
    """log p(letter | prompt) in nats, float64, for each question in order.

    A forward is made for what differs in the input alone: one a question where the letters differ in their last token.
    """
    # Input tokens -> the letters that are read there: (question, letter, the tokens to predict).
    inputs: dict[tuple[int, ...], list[tuple[int, int, list[int]]]] = {}
    for question, (prompt, letters) in enumerate(questions):
        for letter, tokens in enumerate(letters):
            inputs.setdefault((*prompt, *tokens[:-1]), []).append((question, letter, tokens))
    sequences = list(inputs)
    logps = [np.full(len(letters), np.nan) for _, letters in questions]

    def fits(batch: list[int]) -> bool:
        return len(batch) * max(len(sequences[i]) for i in batch) <= MAX_TOKENS

    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    with evaluating(model), tqdm(total=len(order), desc="choosing", unit="row", delay=2, leave=False) as bar:
        for batch in batches(order, batch_size, fits):
            # The last tokens of each input, as many as its longest letter has.
            tails = [max(len(tokens) for *_, tokens in inputs[sequences[i]]) for i in batch]
            for i, logits in zip(batch, _tail_logits(model, [sequences[i] for i in batch], tails), strict=True):
                log_probs = logits.float().log_softmax(-1).double().cpu().numpy()
                for question, letter, tokens in inputs[sequences[i]]:
                    logps[question][letter] = log_probs[-len(tokens) :][np.arange(len(tokens)), tokens].sum()
            bar.update(len(batch))
    return logps


def _tail_logits(model: PreTrainedModel | PeftModel, sequences: list[tuple[int, ...]], tails: list[int]) -> Iterator[torch.Tensor]:
    """One forward over B sequences -> for each the logits (tail, V) at its last positions."""
    lengths = [len(sequence) for sequence in sequences]
    width = max(lengths)
    ids = torch.tensor([[*sequence, *[0] * (width - len(sequence))] for sequence in sequences], device=model.device)
    mask = torch.tensor([[1] * length + [0] * (width - length) for length in lengths], device=model.device)
    found = forward(model, input_ids=ids, attention_mask=mask)
    ends = zip(found.states, lengths, tails, strict=True)
    return (found.head.logits(states[length - tail : length]) for states, length, tail in ends)


def _tokens(tokenizer: PreTrainedTokenizerBase, rows: list[Mapping[str, Any]], name: str) -> list[Question]:
    """Each row's prompt, up to where its letters' tokens first part from it, and what follows there for each letter, end tokens out."""
    written: list[dict[str, str]] = []
    for row in rows:
        choices = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, row["choices"], strict=False)]
        prompt = "\n".join([row["question"].strip(), *choices, "Answer:"])
        written += [{"prompt": prompt, "completion": f" {letter}"} for letter in ascii_uppercase[: len(choices)]]
    tokenized = iter(tokenize(Dataset.from_list(written), tokenizer, 10**9, name=name).rows)
    special = special_ids(tokenizer)
    questions = []
    for row in rows:
        wholes, starts = [], []
        for _ in row["choices"]:
            tokens, labels = (next_row := next(tokenized))["input_ids"], next_row["labels"]
            starts.append(next(i for i, label in enumerate(labels) if label != IGNORE))
            wholes.append(tokens[: len(tokens) - end_length(tokenizer, special, tokens)])
        # A tokenizer may glue one letter to the prompt's end and not another: all are measured from where the first one parts.
        start = min(starts)
        questions.append((wholes[0][:start], [whole[start:] for whole in wholes]))
    return questions


def _right(logps: np.ndarray, key: int) -> float:
    if np.isnan(logps).any():
        return float("nan")
    return float(logps[key] > np.delete(logps, key).max())


def _check(row: Mapping[str, Any], where: str) -> int:
    """The right choice's number, from 0."""
    for column in ("question", "choices", "answer"):
        if row.get(column) is None:
            raise UserError(f"{where}: {column} is missing, write question, choices and answer.")
    question, choices, answer = row["question"], row["choices"], row["answer"]
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: question is no text, write one.")
    if not isinstance(choices, list) or not 2 <= len(choices) <= 26 or not all(isinstance(choice, str) for choice in choices):
        raise UserError(f"{where}: choices is no list of 2 to 26 texts, write one.")
    letters = ascii_uppercase[: len(choices)]
    if isinstance(answer, str) and len(answer.strip()) == 1 and answer.strip().upper() in letters:
        return letters.index(answer.strip().upper())
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    raise UserError(
        f"{where}: answer is none of its choices, write a number from 0 to {len(choices) - 1} or a letter from A to {letters[-1]}."
    )
