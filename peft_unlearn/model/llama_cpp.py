"""A GGUF file run by llama.cpp, as whoever serves it runs it: what it scores and answers of rows, in the terms of `scoring` and `generation`."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from peft_unlearn.data.rows import Row, end_length, special_ids, split, text
from peft_unlearn.model import generation, scoring
from peft_unlearn.util.boundary import boundary


class Reading(NamedTuple):
    """What llama.cpp makes of rows: scores and greedy answers, and of how many rows its own tokenizer reads the text as the same tokens."""

    scores: list[scoring.RowScore]
    answers: list[str]
    alike: int


def read(
    path: Path, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], *, lora: Path | None = None, progress: str = "llama.cpp"
) -> Reading:
    """The scores and greedy answers of rows, from the very tokens that a model of transformers is given.

    Nothing but the weights, and how they are held, then tells the two apart: llama.cpp keeps keys and values in 16 bits by default.

    Args:
        lora: an adapter in GGUF, to be put on the model.

    Raises:
        UserError: llama.cpp does not load it.
    """
    special = special_ids(tokenizer)
    pairs = [split(row, special) for row in rows]
    with _opened(path, lora, max((len(row["input_ids"]) for row in rows), default=1) + generation.MARGIN + 1) as model:
        context = model._model.n_ctx_train()
        stops, limits, closing = generation.bounds(tokenizer, pairs, context, _end_tokens(model))
        scores, answers, alike = [], [], 0
        labeled = scoring.labeled(rows)
        for number in tqdm(range(len(rows)), desc=progress, unit="row", delay=2, leave=False):
            row, (prompt, _) = labeled[number], pairs[number]
            model.reset()
            model.eval(row.tokens.tolist())
            end = end_length(tokenizer, special, row.targets.tolist())
            scores.append(_score(model.scores[row.positions], row.targets, end))
            tokens = _greedy(model, len(prompt), limits[number], stops)
            answers.append(generation.shown(tokenizer, tokens, stops, closing[number]))
            said = text(tokenizer, row.tokens.tolist())
            alike += model.tokenize(said.encode(), add_bos=False) == tokenizer(said, add_special_tokens=False)["input_ids"]
    return Reading(scores, answers, alike)


@contextlib.contextmanager
def _opened(path: Path, lora: Path | None, context: int) -> Iterator[Any]:
    """The model, with the logits of every token at hand; its memory is free again afterwards."""
    with boundary(f"gguf: llama.cpp does not load {str(path)!r}", "see whether its version knows the architecture"):
        threads = torch.get_num_threads()
        how: dict[str, Any] = {"n_threads": threads, "n_threads_batch": threads, "lora_path": None if lora is None else str(lora)}
        model = loaded(path, n_ctx=context, logits_all=True, **how)
    try:
        yield model
    finally:
        model.close()


def loaded(path: Path, **how: Any) -> Any:
    """A `llama_cpp.Llama` whose weights stay as they are in the file.

    llama.cpp rearranges them for AMX, and on virtual machines its kernels then end the process by a signal, which nothing can catch
    (https://github.com/ggml-org/llama.cpp/issues/20824). Its binding has no argument that leaves them, so its defaults are others meanwhile.
    """
    import llama_cpp

    library = llama_cpp.llama_cpp
    defaults = library.llama_model_default_params

    def as_in_the_file() -> Any:
        parameters = defaults()
        parameters.use_extra_bufts = False
        return parameters

    library.llama_model_default_params = as_in_the_file
    try:
        return llama_cpp.Llama(str(path), verbose=False, **how)
    finally:
        library.llama_model_default_params = defaults


def _end_tokens(model: Any) -> set[int]:
    """Tokens at which llama.cpp itself ends an answer."""
    import llama_cpp

    vocabulary = llama_cpp.llama_model_get_vocab(model._model.model)
    return {token for token in range(model.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocabulary, token)}


def _greedy(model: Any, prompt: int, limit: int, stops: set[int]) -> list[int]:
    """The answer to the first `prompt` of the tokens that the model holds."""
    tokens: list[int] = []
    model.n_tokens = prompt
    while len(tokens) < limit:
        tokens.append(int(model.scores[model.n_tokens - 1].argmax()))
        if tokens[-1] in stops or len(tokens) == limit:
            break
        model.eval([tokens[-1]])
    return tokens


def _score(logits: np.ndarray, targets: np.ndarray, end: int) -> scoring.RowScore:
    """Of the logits (T, V) before each of the T tokens that came."""
    logits = logits.astype(np.float64)
    logps = logits - logits.max(-1, keepdims=True)
    logps -= np.log(np.exp(logps).sum(-1, keepdims=True))
    p = np.exp(logps)
    means = (p * logps).sum(-1)
    deviations = np.sqrt((p * (logps - means[:, None]) ** 2).sum(-1))
    return scoring.RowScore(logps[np.arange(len(targets)), targets], logits.argmax(-1) == targets, end, means, deviations)
