"""How long a recipe's run would take on this machine: its parts are begun for real, in a folder that is thrown away, and timed."""

import copy
import dataclasses
import math
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformers import TrainerCallback

from peft_unlearn.benchmarks.own import Own
from peft_unlearn.config.recipe import Recipe
from peft_unlearn.planning import host
from peft_unlearn.training import datasets
from peft_unlearn.workflows import loading, train_run
from peft_unlearn.workflows.results import Times

WARM, STEPS = 1, 3  # steps that are not counted, and that are
ROWS = 8  # of each set that are evaluated


class Clock(TrainerCallback):  # type: ignore[misc]  # annotations of transformers are not followed
    """The seconds of each step, of its batch and of all that is called within it."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends = [time.monotonic()]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.monotonic())


def times(plan: Recipe) -> Times:
    """Load the base, prepare the sets, evaluate a few rows, take a few steps and check once, as `train` does.

    Raises:
        UserError: what `train` refuses.
    """
    with tempfile.TemporaryDirectory() as folder:
        steps, epochs = plan.training.max_steps, plan.training.num_train_epochs
        plan = _short(plan, Path(folder) / "run")
        began = time.monotonic()
        tokenizer, probes = loading.prepare(plan)
        host.check(plan)
        probes, _ = train_run.consult_never_seen(plan, tokenizer, probes, {})  # its targets; that it is evaluated is counted below
        clock = Clock()
        run = train_run.start(plan, plan.resolved(), tokenizer, probes, [clock])
        prepared = time.monotonic() - began
        whole = Own({"retain": run.sets.probes["retain"], **datasets.evaluated(plan.training, probes)}, plan.data.eval_rows)
        few = Own(whole.probes, ROWS)
        evaluated, rows = _seconds(lambda: dataclasses.replace(run, sets=few).evaluate("before", "reference")), _rows(few)
        run.trainer.train()
        counted = clock.ends[WARM:]
        checks, args = run.trainer.early_stop, run.trainer.args
        an_epoch = math.ceil(
            len(run.trainer.trained["forget"]) / (args.train_batch_size * args.gradient_accumulation_steps * args.world_size)
        )
        return Times(
            prepare=prepared,
            evaluate=evaluated * _rows(whole) / rows,
            evaluations=2 + bool(plan.model.never_seen_model_name_or_path or run.below),
            step=(counted[-1] - counted[0]) / (len(counted) - 1),
            padding=mean(line["padding"] for line in run.trainer.state.log_history if "padding" in line),
            check=0.0 if checks is None else _seconds(lambda: run.trainer.checks.check(copy.deepcopy(checks))),
            every=run.trainer.check_every if checks is not None else 0,
            steps=None if checks is not None else steps if steps > 0 else math.ceil(epochs * an_epoch),
        )


def _short(plan: Recipe, output: Path) -> Recipe:
    """The same run, which writes nothing that stays and ends after a few steps."""
    training = copy.copy(plan.training)
    training.output_dir, training.max_steps, training.save_strategy, training.save_minutes = str(output), WARM + STEPS, "no", 0
    training.logging_strategy, training.logging_steps = "steps", 1  # each says its padding
    training.push_to_hub, training.report_to, training.max_minutes = False, [], None
    return dataclasses.replace(
        plan,
        training=training,
        model=loading.settle_base(plan.model, plan.model.adapter_name_or_path, key="adapter_name_or_path"),
    )


def _rows(sets: Own) -> int:
    return sum(len(probe.rows) for probe in sets.probes.values())


def _seconds(work: Any) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
