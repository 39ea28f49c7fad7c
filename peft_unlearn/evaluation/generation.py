"""Greedy answers to the prompts of rows."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from peft import PeftModel
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.evaluation.rows import Row, batches, end_length, special_ids, split, text
from peft_unlearn.evaluation.scoring import evaluating

# Tokens that an answer may run past the length of the reference: a right answer in other words is seen whole.
MARGIN = 16


def generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Row],
    *,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    progress: str = "generating",
) -> list[str]:
    """Answer each row's prompt greedily, in the order of `rows`, as text without special tokens and outer white space.

    An answer stops at an end token (the tokenizer's, the model's, or one that ends an answer of `rows`), after `max_new_tokens`, or at the
    end of the context. By default a row may take as many tokens as its reference and 16 more; a reference without an end token was itself
    cut, and its answer is cut at the same length. The limit is each row's own, so answers do not depend on the batch. Sampling, penalties
    and lengths in the model's own generation_config are ignored; it is left as it was.
    """
    special = special_ids(tokenizer)
    pairs = [split(row, special) for row in rows]
    prompts, answers = [prompt for prompt, _ in pairs], [answer for _, answer in pairs]
    ends = [end_length(tokenizer, special, answer) for answer in answers]
    causal = cast(PreTrainedModel, model.get_base_model()) if isinstance(model, PeftModel) else model
    stops = _end_tokens(tokenizer, causal) | {answer[-end] for answer, end in zip(answers, ends, strict=True) if end}
    # State-space models and ALiBi have no such limit, and so no such key.
    context = getattr(causal.config.get_text_config(), "max_position_embeddings", None) or 10**9
    limits = [max_new_tokens or len(answer) + MARGIN * bool(end) for answer, end in zip(answers, ends, strict=True)]
    # The last token is not fed back, hence + 1.
    limits = [max(1, min(limit, context + 1 - len(prompt))) for limit, prompt in zip(limits, prompts, strict=True)]

    def fits(batch: list[int]) -> bool:
        return max(len(prompts[i]) for i in batch) + max(limits[i] for i in batch) <= context + 1

    texts: dict[int, str] = {}
    # Steps cost more than padding: batches of rows that may run equally long.
    order = sorted(range(len(prompts)), key=lambda i: (-limits[i], -len(prompts[i])))
    with evaluating(model), _greedy(causal, stops), tqdm(total=len(order), desc=progress, unit="row", delay=2, leave=False) as bar:
        for batch in batches(order, batch_size, fits):
            width = max(len(prompts[i]) for i in batch)
            pads = [width - len(prompts[i]) for i in batch]
            ids = torch.tensor([[0] * pad + prompts[i] for i, pad in zip(batch, pads, strict=True)], device=causal.device)
            mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads], device=causal.device)
            longest = max(limits[i] for i in batch)
            output = causal.generate(input_ids=ids, attention_mask=mask, max_new_tokens=longest)  # type: ignore[operator]
            for i, tokens in zip(batch, output[:, width:].tolist(), strict=True):
                stop = next((n for n, token in enumerate(tokens) if token in stops), len(tokens))
                texts[i] = text(tokenizer, tokens[: min(stop, limits[i])])
            bar.update(len(batch))
    return [texts[i] for i in range(len(order))]


def _end_tokens(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> set[int]:
    """End tokens that the tokenizer and the model's generation_config (an id or several) know."""
    known = model.generation_config.eos_token_id
    return {token for token in (tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])) if token is not None}


@contextmanager
def _greedy(model: PreTrainedModel, stops: set[int]) -> Iterator[None]:
    """Swap the generation_config: what it sets (Qwen's repetition_penalty, a max_length) would fill in for what a call leaves out."""
    own = model.generation_config
    # Nothing after an end token is read, so any id will pad.
    model.generation_config = GenerationConfig(do_sample=False, use_cache=True, eos_token_id=sorted(stops) or None, pad_token_id=0)
    try:
        yield
    finally:
        model.generation_config = own
