"""Answers to the prompts of rows: greedy, or drawn from the model."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

import numpy as np
import torch
from peft import PeftModel
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.rows import Row, batches, end_length, special_ids, split, text
from peft_unlearn.data.turns import turn
from peft_unlearn.model.scoring import evaluating
from peft_unlearn.model.sharing import by_batches
from peft_unlearn.model.supported import running

# Tokens that an answer may run past the length of the reference: a right answer in other words is seen whole.
MARGIN = 16
RUN = 3  # tokens in a row of its reference that an answer must not have where it is to say something else


def generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    *,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    stop_strings: Sequence[str] = (),
    end_tokens: Iterable[int] | None = None,
    otherwise: bool = False,
    progress: str = "generating",
) -> list[str]:
    """Answer each row's prompt greedily, in the order of `rows`, as text without special tokens and outer white space.

    An answer stops at an end token (the tokenizer's, the model's, one that ends an answer of `rows` or a turn of the chat template; or
    `end_tokens` alone), before the first of `stop_strings` and the text with which the chat template ends a turn, after `max_new_tokens`, or at
    the end of the context. By default a row may take as many tokens as its reference and 16 more; a reference without an end was itself cut,
    and its answer is cut at the same length. The limit is each row's own, so answers do not depend on the batch. Sampling, penalties and
    lengths in the model's own generation_config are ignored; it is left as it was.

    `otherwise`: no answer may have `RUN` tokens in a row of its reference, the end of the prompt included: what else the model would say.
    """
    answers = _answers(model, tokenizer, rows, None, batch_size, max_new_tokens, stop_strings, end_tokens, otherwise, progress)
    return [answer for (answer,) in answers]


def sample(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    samples: int,
    *,
    seed: int = 0,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    stop_strings: Sequence[str] = (),
    progress: str = "sampling",
) -> list[list[str]]:
    """Draw `samples` answers to each row's prompt from the model itself (temperature 1, top-p 1); they stop where those of `generate` do.

    The randomness of an answer depends on `seed`, the prompt and the answer's number alone: beyond rounding of the logits, neither batch size
    nor the other rows nor their order nor `samples` changes it, two models are asked with the same luck, and rows that share a prompt share
    their answers.
    """
    seeds = [(seed, number) for number in range(samples)]
    return _answers(model, tokenizer, rows, seeds, batch_size, max_new_tokens, stop_strings, None, False, progress)


def context_length(model: PreTrainedModel | PeftModel) -> int:
    """Tokens that the model can see at once; state-space models and ALiBi have no such limit, and so no such key."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or 10**9


def _answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    seeds: list[tuple[int, int]] | None,
    batch_size: int,
    max_new_tokens: int | None,
    stop_strings: Sequence[str],
    end_tokens: Iterable[int] | None,
    otherwise: bool,
    progress: str,
) -> list[list[str]]:
    """For each row one greedy answer, or one drawn with each of `seeds`."""
    special = special_ids(tokenizer)
    pairs = [split(row, special) for row in rows]
    causal = cast(PreTrainedModel, model.get_base_model()) if isinstance(model, PeftModel) else model
    context = context_length(causal)
    stops, limits, closing = bounds(tokenizer, pairs, context, own_end_tokens(causal), max_new_tokens)
    if end_tokens is not None:
        stops, closing = set(end_tokens), [()] * len(pairs)

    repeats = 1 if seeds is None else len(seeds)
    prompts = [prompt for prompt, _ in pairs for _ in range(repeats)]
    limits = [limit for limit in limits for _ in range(repeats)]

    def fits(batch: list[int]) -> bool:
        return max(len(prompts[i]) for i in batch) + max(limits[i] for i in batch) <= context + 1

    def written(batch: list[int]) -> Iterator[str]:
        width = max(len(prompts[i]) for i in batch)
        pads = [width - len(prompts[i]) for i in batch]
        ids = torch.tensor([[0] * pad + prompts[i] for i, pad in zip(batch, pads, strict=True)], device=causal.device)
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads], device=causal.device)
        longest = max(limits[i] for i in batch)
        draws = LogitsProcessorList([_Otherwise([pairs[i // repeats] for i in batch])] if otherwise else [])
        if seeds is not None:
            rngs = [np.random.default_rng([*seeds[i % repeats], *prompts[i]]) for i in batch]
            draws.append(_Draw(np.stack([rng.random(longest) for rng in rngs]), width))
        with running(causal, "write texts"):
            output = causal.generate(input_ids=ids, attention_mask=mask, max_new_tokens=longest, logits_processor=draws)
        for i, tokens in zip(batch, output[:, width:].tolist(), strict=True):
            yield shown(tokenizer, tokens[: limits[i]], stops, [*stop_strings, *closing[i // repeats]])

    # Steps cost more than padding: batches of rows that may run equally long.
    order = sorted(range(len(prompts)), key=lambda i: (-limits[i], -len(prompts[i])))
    with evaluating(model), _plain(causal, stops):
        texts = by_batches(batches(order, batch_size, fits), written, progress)
    return [[texts[i] for i in range(row * repeats, (row + 1) * repeats)] for row in range(len(pairs))]


class _Draw(LogitsProcessor):  # type: ignore[misc]  # a class of an untyped library
    """Leave one token of each row, drawn by inverting the distribution function, so that greedy decoding samples.

    `uniforms` (B, steps): one number in [0, 1) for each token, of which a row's first ones do not depend on how many follow.
    """

    def __init__(self, uniforms: np.ndarray, width: int) -> None:
        self.uniforms, self.width = torch.from_numpy(uniforms), width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        cumulative = scores.double().softmax(-1).cumsum(-1)  # (B, V)
        uniform = self.uniforms[:, input_ids.shape[1] - self.width, None].to(scores.device)
        token = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).clamp_max(scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, token, 0.0)


class _Otherwise(LogitsProcessor):  # type: ignore[misc]  # a class of an untyped library
    """Rule out each token that would complete a run of `RUN` tokens of the row's own answer; of (prompt, answer) of each row."""

    def __init__(self, rows: Sequence[tuple[list[int], list[int]]]) -> None:
        self.following: list[dict[tuple[int, ...], set[int]]] = []
        for prompt, answer in rows:
            tokens, following = prompt[-RUN + 1 :] + answer, dict[tuple[int, ...], set[int]]()
            for start in range(len(tokens) - RUN + 1):
                following.setdefault(tuple(tokens[start : start + RUN - 1]), set()).add(tokens[start + RUN - 1])
            self.following.append(following)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for row, (last, following) in enumerate(zip(input_ids[:, -RUN + 1 :].tolist(), self.following, strict=True)):
            scores[row, sorted(following.get(tuple(last), ()))] = -torch.inf
        return scores


class Bounds(NamedTuple):
    """Where answers end: at tokens, of each row after so many, and before the first of its closing texts."""

    stops: set[int]
    limits: list[int]
    closing: list[tuple[str, ...]]


def bounds(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[list[int], list[int]]],
    context: int,
    end_tokens: set[int],
    max_new_tokens: int | None = None,
) -> Bounds:
    """Where the answers to (prompt, answer) of each row end, as `generate` says it, of a model with that context and those end tokens of its own."""
    stops, ended, closing = _ends(tokenizer, special_ids(tokenizer), pairs)
    limits = [max_new_tokens or len(answer) + MARGIN * end for (_, answer), end in zip(pairs, ended, strict=True)]
    # The last token is not fed back, hence + 1.
    limits = [max(1, min(limit, context + 1 - len(prompt))) for limit, (prompt, _) in zip(limits, pairs, strict=True)]
    return Bounds(stops | end_tokens, limits, closing)


def shown(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], stops: set[int], closing: Sequence[str]) -> str:
    """Tokens as text up to the first that ends an answer, or the first closing text. They may begin with white space, so that is cut last."""
    stop = next((n for n, token in enumerate(tokens) if token in stops), len(tokens))
    answer = str(tokenizer.decode(tokens[:stop], skip_special_tokens=True))
    found = [position for text in closing if (position := answer.find(text)) >= 0]
    return answer[: min(found, default=len(answer))].strip()


def own_end_tokens(model: PreTrainedModel) -> set[int]:
    """End tokens of the model's own generation_config (an id or several)."""
    known = model.generation_config.eos_token_id
    return {token for token in (known if isinstance(known, list) else [known]) if token is not None}


def _ends(
    tokenizer: PreTrainedTokenizerBase, special: set[int], pairs: Sequence[tuple[list[int], list[int]]]
) -> tuple[set[int], list[bool], list[tuple[str, ...]]]:
    """Tokens that end an answer to the tokenizer, the chat template or a row; whether each row shows its end; each answer's closing text.

    That text ends the answers to prompts of the chat template alone: in a text that goes on it is a text.
    """
    of_template = turn(tokenizer)
    closing: list[tuple[str, ...]] = []
    lengths = [end_length(tokenizer, special, answer) for _, answer in pairs]
    stops = {answer[-length] for (_, answer), length in zip(pairs, lengths, strict=True) if length}
    stops |= {token for token in (tokenizer.eos_token_id, of_template.end_token) if token is not None}
    shown = [bool(length) for length in lengths]
    for row, (prompt, answer) in enumerate(pairs):
        written = bool(of_template.end_text) and of_template.opened(str(tokenizer.decode(prompt)))
        closing.append((of_template.end_text,) if written else ())
        shown[row] |= written and of_template.closed(text(tokenizer, answer))
    return stops, shown, closing


@contextmanager
def _plain(model: PreTrainedModel, stops: set[int]) -> Iterator[None]:
    """Swap the generation_config: what it sets (Qwen's repetition_penalty, a max_length) would fill in for what a call leaves out."""
    own = model.generation_config
    # Nothing after an end token is read, so any id will pad.
    model.generation_config = GenerationConfig(do_sample=False, use_cache=True, eos_token_id=sorted(stops) or None, pad_token_id=0)
    try:
        yield
    finally:
        model.generation_config = own
