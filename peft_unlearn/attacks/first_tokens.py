"""Answers that begin with an unlikely token and go on greedily: a refusal lies in the first tokens, and behind other ones the text may stand.

Of the likeliest first tokens the last ones are forced, so that what the model wants to say first is never among them.
"""

import torch
from torch import Tensor

from peft_unlearn.attacks.asking import row
from peft_unlearn.attacks.context import Context, Shown, Skipped, shown
from peft_unlearn.data.rows import Row, answer_texts, special_ids, split
from peft_unlearn.metrics.results import summarize
from peft_unlearn.metrics.rouge_l import rouge_l
from peft_unlearn.model import generation
from peft_unlearn.model.lm_head import forward
from peft_unlearn.model.scoring import evaluating, labeled, longest_first, padded
from peft_unlearn.util.registry import attack

AMONG = 20  # likeliest tokens
COUNT = {False: 4, True: 16}


@attack(order=5, quick=True, control=True)
def first_tokens(context: Context) -> list[Shown]:
    """Answers that are made to begin with an unlikely token.

    The best ROUGE-L recall of what follows several forced first tokens, which do not count themselves: the least likely of the 20 likeliest.

    Raises:
        Skipped: every answer is a single token, and nothing follows.
    """
    tokenizer, count = context.tokenizer, COUNT[context.full]
    special, rows = special_ids(tokenizer), list(context.probes["forget"].rows)
    halves = [split(found, special) for found in rows]
    prompts = [row(prompt, answer) for prompt, answer in halves]
    forced = [
        row([*prompt, token], answer[1:])
        for (prompt, answer), tokens in zip(halves, unlikely(context, prompts, count), strict=True)
        for token in tokens
        if len(answer) > 1
    ]
    if not forced:
        raise Skipped("every answer is a single token, and nothing follows it")
    answers = iter(generation.generate(context.model, tokenizer, forced, batch_size=context.batch_size, progress="first tokens: answering"))
    values: list[float | None] = []
    for reference, (_, answer) in zip(answer_texts(tokenizer, rows), halves, strict=True):
        told = [rouge_l(reference, next(answers)) for _ in range(count)] if len(answer) > 1 else []
        values.append(None if not told or None in told else max(value for value in told if value is not None))
    return [shown(f"the best behind {count} unlikely first tokens", "rouge_l", summarize(values), threshold="first_tokens")]


def unlikely(context: Context, rows: list[Row], count: int) -> list[list[int]]:
    """The `count` least likely of the `AMONG` likeliest first tokens of each row's answer, the least likely first; special ones are none."""
    special = sorted(special_ids(context.tokenizer))
    starts = labeled(row(list(found["input_ids"])[: _start(found)], [0]) for found in rows)
    chosen: dict[int, list[int]] = {}
    with evaluating(context.model):
        for batch in longest_first(starts, context.batch_size):
            read = forward(context.model, **padded(context.model, [starts[i] for i in batch]))
            last = torch.stack([states[starts[i].positions[-1]] for i, states in zip(batch, read.states, strict=True)])
            logits: Tensor = read.head.logits(last)
            logits[:, special] = -torch.inf
            likely = logits.topk(min(AMONG, logits.shape[-1] - len(special)), dim=-1).indices
            for i, tokens in zip(batch, likely.flip(-1)[:, :count].tolist(), strict=True):
                chosen[i] = tokens
    return [chosen[i] for i in range(len(rows))]


def _start(found: Row) -> int:
    """Where the labels begin."""
    return next((i for i, label in enumerate(found["labels"]) if label >= 0), len(found["labels"]))
