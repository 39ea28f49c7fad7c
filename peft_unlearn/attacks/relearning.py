"""A3, relearning: a fresh LoRA learns the first half of the forget set, or benign text, and the second half is asked for.

What is learnt again faster than a never-seen model learns it was still inside. The halves are the set's first and second rows, for what
belongs together stands together: one person's facts do not lie on both sides. The LoRA lies on the model as it is (r 16 on every linear layer,
the forgetting adapter frozen below), which is the same as a LoRA on the merged model, without what merging would round away.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from peft_unlearn.attacks.context import Context, Shown, Skipped, number, recalled, take
from peft_unlearn.data.collating import collate_rows, padding_id
from peft_unlearn.data.labels import IGNORE
from peft_unlearn.data.rows import Row
from peft_unlearn.data.variants import Probe
from peft_unlearn.metrics.results import Evaluation
from peft_unlearn.model import adapters
from peft_unlearn.model.logprobs import score
from peft_unlearn.util.registry import attack

NAME = "relearning"
RATES = (5e-5, 2e-4, 1e-3)
STEPS = {False: (5, 25), True: (5, 10, 25, 50, 100)}
JUDGED = 25  # steps
BATCH = 16  # rows of a step
HALF = 0.5  # of what was forgotten: the steps to it are reported


@attack(order=3, quick=True, control=True)
def relearning(context: Context) -> list[Shown]:
    """A fresh LoRA learns half of the set, and the other half is asked for.

    Recall of the second half after each number of steps, at the learning rate that brings back most, and the steps to half of it.

    Raises:
        Skipped: one row has no halves.
    """
    probe = context.probes["forget"]
    half = len(probe.rows) // 2
    if not half:
        raise Skipped("the forget set has one row, and no halves")
    asked = list(range(half, len(probe.rows)))
    unseen = probe.select(asked)
    sources = {"half of the set": take(probe.rows, range(half))}
    if context.full and "retain" in context.probes:
        sources["benign text"] = list(context.probes["retain"].rows)
    found: list[Shown] = []
    for source, rows in sources.items():
        by_rate = [list(_recalls(context, rows, unseen, rate, f"relearning {source}, rate {rate:g}")) for rate in RATES]
        worst = [_worst(evaluations, half) for evaluations in zip(*by_rate, strict=True)]
        for steps, evaluation in zip(STEPS[context.full], worst, strict=True):
            found += recalled(f"{steps} steps on {source}", evaluation, threshold="relearning" if steps == JUDGED else None)
        strengths = [evaluation["extraction_strength"]["mean"] for evaluation in worst]
        found.append(number(f"{source}, up to {STEPS[context.full][-1]} steps", "steps_to_half", _steps_to_half(context, asked, strengths)))
    return found


def _recalls(context: Context, rows: Sequence[Row], unseen: Probe, rate: float, label: str) -> Iterator[Evaluation]:
    """Recall of the rows that are not learnt, after each number of steps of AdamW at a constant rate, in the rows' order round and round."""
    pad = padding_id(context.tokenizer)
    with (
        fresh_lora(context.model, context.seed) as (model, parameters),
        tqdm(desc=label, total=STEPS[context.full][-1], delay=2, leave=False) as bar,
    ):
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
        for step in range(1, STEPS[context.full][-1] + 1):
            chosen = [_plain(rows[((step - 1) * BATCH + i) % len(rows)]) for i in range(min(BATCH, len(rows)))]
            labels = sum(label != IGNORE for row in chosen for label in row["labels"][1:])
            for start in range(0, len(chosen), context.batch_size):
                padded = collate_rows(chosen[start : start + context.batch_size], pad)
                with checkpointed(model):
                    scores = score(model, {key: value.to(model.device) for key, value in padded.items()})
                    torch.autograd.backward(-scores.logps.sum() / labels)
            optimizer.step()
            optimizer.zero_grad()
            bar.update()
            if step in STEPS[context.full]:
                yield context.recall(model, unseen)


def _worst(evaluations: Sequence[Evaluation], half: int) -> Evaluation:
    """Of several learning rates, metric by metric, the one that brings back most, or whose numbers are not finite; as rows of the whole set."""
    worst = {
        metric: max((each[metric] for each in evaluations), key=lambda result: math.inf if math.isnan(result["mean"]) else result["mean"])
        for metric in evaluations[0]
    }
    return Evaluation({metric: [*[None] * half, *result["rows"]] for metric, result in worst.items()}, [])


def _steps_to_half(context: Context, asked: Sequence[int], strengths: Sequence[float]) -> float:
    """The first number of steps at which half of what was forgotten is back, NaN if none is; without before, half of an answer."""

    def mean(view: str, otherwise: float) -> float:
        rows = context.plain[view]["forget"]["extraction_strength"]["rows"] if view in context.plain else [otherwise] * (asked[-1] + 1)
        return float(np.mean([rows[i] for i in asked if rows[i] is not None]))

    start = mean(context.view, 0.0)
    half = start + HALF * (mean("before", 1.0) - start)
    return next((float(steps) for steps, found in zip(STEPS[context.full], strengths, strict=True) if found >= half), math.nan)


@contextlib.contextmanager
def fresh_lora(model: PreTrainedModel | PeftModel, seed: int) -> Iterator[tuple[PeftModel, list[nn.Parameter]]]:
    """The model with a new adapter on top of what is active, and the adapter's parameters, alone to be trained. Both go at the end."""
    adapted, active = isinstance(model, PeftModel), []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if isinstance(model, PeftModel):
            active = list(model.base_model.active_adapters)
            model.add_adapter(NAME, adapters.default_lora())
            learner = model
        else:
            learner = get_peft_model(model, adapters.default_lora(), adapter_name=NAME)
    try:
        with adapters.activated(learner, [*active, NAME]):
            parameters = adapters.adapter_parameters(learner, NAME)
            for parameter in parameters:
                parameter.requires_grad_(True)
            yield learner, parameters
    finally:
        if adapted:
            learner.delete_adapter(NAME)
        else:
            learner.unload()


@contextlib.contextmanager
def checkpointed(model: PeftModel) -> Iterator[None]:
    """Keep the layers' inputs alone for the backward pass. Only the layers take themselves for training: dropout inside them stays off."""
    if not model.get_base_model().supports_gradient_checkpointing:
        yield
        return
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    own = [(layer.training, layer.gradient_checkpointing) for layer in layers]
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer, (training, checkpointing) in zip(layers, own, strict=True):
            layer.training, layer.gradient_checkpointing = training, checkpointing


def _plain(row: Row) -> dict[str, list[int]]:
    """A row without targets and alternates."""
    return {key: list(row[key]) for key in ("input_ids", "labels")}
