"""General ability by tasks of lm-evaluation-harness: the price of forgetting outside the retain set."""

import copy
import importlib.util
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from peft_unlearn.util.errors import UserError

PREFERRED = ("acc", "exact_match")  # of a task with several numbers; else its first one


def check_installed(names: Sequence[str]) -> None:
    """Raises:
    UserError: tasks are asked for, and lm-evaluation-harness is not there.
    """
    if names and importlib.util.find_spec("lm_eval") is None:
        raise UserError("tasks: lm-evaluation-harness is not installed, run pip install 'peft-unlearn[tasks]', or leave tasks out.")


def check(names: Sequence[str]) -> None:
    """Load each task with its rows, so that what is missing is told before a model is loaded.

    Raises:
        UserError: a name that is no task, group or YAML file, or a task whose rows are not to be had.
    """
    if not names:
        return
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    for name in names:
        try:
            manager.load(name)
        except KeyError as error:
            raise UserError(
                f"tasks: {name!r} is no task of lm-evaluation-harness and no YAML file of one, lm_eval ls tasks lists them."
            ) from error
        except Exception as error:  # whatever the task's own loading raises
            reason = str(error).split("\n")[0].rstrip(".") or type(error).__name__
            raise UserError(f"tasks: {name} cannot be loaded ({reason}), give its rows on the disk or a network.") from error


def measure(model: Any, tokenizer: Any, names: Sequence[str], *, rows: int = 0, batch_size: int = 16) -> dict[str, list[float | None]]:
    """For each task what every row got, 1 for right and 0 for wrong where it counts accuracy; a group's tasks one after another.

    Prompts, shots and metrics are those of the task, without a chat template. The model is measured under its active adapters.

    Args:
        rows: of each task, evenly spaced; 0 is all.
    """
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from peft_unlearn.data.rows import evenly
    from peft_unlearn.model.scoring import evaluating

    manager, found = TaskManager(), {}
    with evaluating(model):
        # The harness ties the weights, which are tied already: with a LoRA on a tied head that fails.
        model.tie_weights = lambda: None
        try:
            # It gives the tokenizer a padding token, so it gets a copy.
            wrapped = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
        finally:
            del model.tie_weights
        for name in names:
            tasks = manager.load(name)["tasks"]
            chosen = {leaf: evenly(len(list(task.eval_docs)), rows) for leaf, task in tasks.items()} if rows else None
            seeds = {"random_seed": None, "numpy_random_seed": None, "torch_random_seed": None}
            made = simple_evaluate(wrapped, tasks=[name], samples=chosen, task_manager=manager, bootstrap_iters=0, **seeds)
            found[Path(name).stem if name.endswith(".yaml") else name] = [
                value for leaf in tasks for value in _values(made["samples"][leaf])
            ]
    return found


def _values(samples: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """One number of each row, in their order, from the first of the task's filters; None where the task gives no number for a row alone."""
    first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    metric = next((name for name in PREFERRED if name in first[0]["metrics"]), first[0]["metrics"][0])
    ordered = sorted(first, key=lambda sample: sample["doc_id"])
    return [float(value) if isinstance(value := sample[metric], Real) else None for sample in ordered]
