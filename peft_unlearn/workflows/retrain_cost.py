"""What training the user's own LoRA again without the rows would take: the honest alternative to forgetting them."""

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows.requests import RetrainCostRequest
from peft_unlearn.workflows.results import RetrainCost

if TYPE_CHECKING:
    from peft_unlearn.config import recipe

TIMED = 4  # steps, the first of which is not counted


def retrain_cost(request: RetrainCostRequest) -> RetrainCost:
    """Time steps of plain LoRA training on the recipe's base, at the mean length of the rows, and count how many it would take.

    What forgetting took stands in the report of the recipe's output folder, where it was done.

    Raises:
        UserError: what `train` refuses of a recipe, or a training set without rows that are to be kept.
    """
    from peft_unlearn.config import recipe
    from peft_unlearn.workflows import checks

    values = checks.checked_recipe(request)
    checks.say_loading()

    from peft_unlearn import data
    from peft_unlearn.util.folders import read_json
    from peft_unlearn.workflows import loading

    plan = recipe.build(values)
    plan = dataclasses.replace(plan, model=loading.settle_base(plan.model, plan.model.adapter_name_or_path, key="adapter_name_or_path"))
    tokenizer, probes = loading.prepare(plan)
    rows = list(probes["retain"].rows) if "retain" in probes else []
    if request.train is not None:
        length = loading.load_tokenizer(plan.model, plan.training.max_length)[2]
        found = data.load(plain(request.train), name="train")
        rows = list(data.tokenize(found, tokenizer, length, name="train", template_arguments=plan.training.chat_template_kwargs).rows)
    forget = {tuple(row["input_ids"]) for row in probes["forget"].rows}
    kept = [row for row in rows if tuple(row["input_ids"]) not in forget]
    if not kept:
        raise UserError("train: no row of it is to be kept, write what your own LoRA was trained on.")
    report = Path(plan.training.output_dir or "") / "report.json"
    run = read_json(report)["run"] if report.is_file() else {}
    return RetrainCost(
        rows=len(kept),
        left_out=len(rows) - len(kept),
        tokens=sum(len(row["input_ids"]) for row in kept),
        steps=math.ceil(request.epochs * len(kept) / request.batch),
        seconds_a_step=_timed(plan, kept, request.batch, int(tokenizer.pad_token_id or 0)),
        forgetting=(run["steps"], run["seconds"]) if "steps" in run else None,
    )


def plain(texts: Any) -> Any:
    """A set as a recipe names it."""
    return str(texts) if isinstance(texts, Path) else texts


def _timed(plan: "recipe.Recipe", rows: Sequence[dict[str, Any]], size: int, pad: int) -> float:
    """Seconds of a step of AdamW over a new adapter on the base, the mean of some; of its rows the lengths are evenly spaced over all."""
    import torch

    from peft_unlearn.data import collate_rows
    from peft_unlearn.data.rows import evenly
    from peft_unlearn.model import adapters
    from peft_unlearn.workflows import loading

    base = loading.load_base(dataclasses.replace(plan.model, adapter_name_or_path=None))
    model, device = adapters.attach(base, loading.new_adapter(plan.model)), plan.training.device
    adapters.place(model, device)
    optimizer, seconds = torch.optim.AdamW(adapters.adapter_parameters(model), lr=1e-6), []
    by_length = sorted(rows, key=lambda row: len(row["input_ids"]))
    batch = collate_rows([by_length[i] for i in evenly(len(rows), size)], pad)
    inputs = {key: batch[key].to(device) for key in ("input_ids", "attention_mask", "labels")}
    for _ in range(TIMED):
        began = time.monotonic()
        model(**inputs, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - began)
    return sum(seconds[1:]) / (TIMED - 1)
