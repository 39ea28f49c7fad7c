"""The views of an evaluation: a model without its forgetting adapter, with it, and the never-seen model; each measured on the same sets.

What can be wrong without a model is found before one is loaded.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn import benchmarks
from peft_unlearn.benchmarks.own import Own
from peft_unlearn.config import recipe
from peft_unlearn.data.rows import special_ids, split, text
from peft_unlearn.metrics.results import Evaluation
from peft_unlearn.metrics.retain_kl import retain_kl
from peft_unlearn.model import adapters
from peft_unlearn.training import datasets
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import locate
from peft_unlearn.workflows import checks, loading, tasks
from peft_unlearn.workflows.requests import AuditRequest, EvaluateRequest

SYSTEM = (
    "{{%- if messages[0]['role'] != 'system' %}}{{%- set messages = [{{'role': 'system', 'content': \"{}\"}}] + messages %}}{{%- endif %}}"
)


@dataclass(frozen=True)
class Job:
    """What is evaluated: sets and models, checked."""

    request: EvaluateRequest | AuditRequest
    plan: recipe.Recipe
    folder: Path
    is_adapter: bool
    benchmark: benchmarks.Benchmark
    how: benchmarks.How
    tokenizer: PreTrainedTokenizerBase
    never_seen: Path | None  # the folder of a never-seen model
    tasks: Sequence[str] = ()  # of lm-evaluation-harness

    @property
    def stacked(self) -> bool:
        """Whether the forgetting adapter lies on the user's own, so that the base alone never saw the forget set."""
        return self.is_adapter and bool(self.plan.model.adapter_name_or_path) and self.plan.model.adapter_mode != "merge"

    @property
    def views(self) -> list[str]:
        """The views that there are: "before" of an adapter, "after", and "never_seen" where something stands for it."""
        known = self.stacked or self.never_seen is not None
        return ["before"] * self.is_adapter + ["after"] + ["never_seen"] * known

    def never_seen_facts(self) -> Mapping[str, str | None] | None:
        base = self.plan.model.model_name_or_path
        if self.never_seen is not None:
            same = base is not None and Path(base).exists() and self.never_seen.samefile(base)
            name = self.request.never_seen or self.plan.model.never_seen_model_name_or_path
            return {"kind": "base" if same else "retrained", "name": str(name)}
        return {"kind": "base", "name": base} if self.stacked else None


def prepare(checked: checks.Checked, *, definitions: str = benchmarks.DEFINITIONS[0], samples: int = 0, tasks: Sequence[str] = ()) -> Job:
    """Check files, rows, tokenizers and adapters, and tokenize.

    Raises:
        UserError: whatever the user can mend.
    """
    request, folder, values = checked.request, checked.folder, checked.values
    plan = recipe.build(values)
    named = None
    if request.benchmark:
        source = None if request.data is None else str(request.data)
        named = benchmarks.read(request.benchmark, source, split=request.split, rows=request.rows or 0)
    settled = loading.settle_base(plan.model, str(folder) if checked.is_adapter else None, key="model")
    sets = {} if named else loading.load_sets(plan.data)
    settled = loading.settle_base(settled, settled.adapter_name_or_path, key="adapter_name_or_path")
    plan = replace(plan, model=settled)
    trained = str(folder) if checked.is_adapter else None
    config, tokenizer, length = loading.load_tokenizer(plan.model, plan.training.max_length, trained)
    if trained:
        loading.check_fit(config, plan.model, tokenizer, trained)
    else:
        loading.check_whole(config, plan.model, tokenizer)
    never_seen = None
    other = request.never_seen or plan.model.never_seen_model_name_or_path
    if other:
        never_seen = locate(other, checks.FILES, key="never-seen")
        loading.check_never_seen(never_seen, plan.model, tokenizer, key="never-seen")
    if request.system_prompt is not None:
        _add_system_prompt(tokenizer, request.system_prompt, of=str(request.model))
    found: benchmarks.Benchmark
    if named:
        found = named
        found.prepare(tokenizer, length, plan.training.chat_template_kwargs or {})
    else:
        rows, column = plan.data.eval_rows, plan.data.group_column
        probes = datasets.tokenize(plan.training, tokenizer, length, sets, reword=True, reword_rows=rows, group_column=column)
        found = Own(datasets.evaluated(plan.training, probes), rows)
    how = benchmarks.How(definitions, plan.training.per_device_eval_batch_size, samples)
    return Job(request, plan, folder, checked.is_adapter, found, how, tokenizer, never_seen, tasks)


def _add_system_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, *, of: str) -> None:
    """Let the chat template begin every conversation with a system turn, unless it has one."""
    if not isinstance(tokenizer.chat_template, str):
        raise UserError(f"system-prompt: the tokenizer of {of} has no chat template to write it with, leave it out.")
    quoted = prompt.replace("\\", "\\\\").replace('"', '\\"')
    tokenizer.chat_template = SYSTEM.format(quoted) + tokenizer.chat_template


def measure_all(job: Job) -> tuple[dict[str, benchmarks.Sets], dict[str, Any]]:
    """Evaluate every set in every view, one model in memory at a time; with facts for the report's "run"."""
    views, facts = {}, {}

    def measure(view: str, model: PreTrainedModel) -> None:
        views[view] = measure_view(job, view, model)
        if view == "after":
            facts.update(run_facts(job, model))

    for_each_view(job, measure)
    return views, facts


def for_each_view(job: Job, do: Callable[[str, PreTrainedModel], None], order: Sequence[str] | None = None) -> None:
    """Call `do` with the name of each of the job's views and its model, one model in memory at a time.

    The view holds while `do` runs: "before" is the base without the forgetting adapter, "after" the model that was given, "never_seen" a
    model that never saw the forget set. `order` names the views to see, by default all of `Job.views`.
    """
    entered = {"before": "reference", "after": "student", "never_seen": "never_seen"}
    model = None
    for view in job.views if order is None else order:
        if view == "never_seen" and job.never_seen is not None:
            model = None  # before the next one is loaded
            adapters.release()
            do(view, loading.load_never_seen(job.plan.model, job.never_seen, key="never-seen"))
            continue
        if model is None:
            model = loading.load_trained(job.plan.model, str(job.folder)) if job.is_adapter else loading.load_whole(job.plan.model)
        with adapters.view(model, entered[view]) if isinstance(model, PeftModel) else contextlib.nullcontext():
            do(view, cast(PreTrainedModel, model))


def measure_view(job: Job, view: str, model: PreTrainedModel) -> benchmarks.Sets:
    """Every set under one view of `for_each_view`, and the tasks as a set of their own; of an adapter, also how far it moved the retain set."""
    sets = job.benchmark.evaluate(model, job.tokenizer, job.how, view.replace("_", "-"))
    if view == "after" and isinstance(model, PeftModel) and "retain" in job.benchmark.probes and not job.how.as_openunlearning:
        rows = job.benchmark.probes["retain"].rows
        through = (partial(adapters.view, model, name) for name in ("reference", "student"))
        sets["retain"]["retain_kl"] = retain_kl(rows, *through, batch_size=job.how.batch_size)
    if job.tasks:
        rows = tasks.measure(model, job.tokenizer, job.tasks, rows=job.request.rows or 0, batch_size=job.how.batch_size)
        sets["tasks"] = Evaluation(rows, [])
    return sets


def run_facts(job: Job, model: PreTrainedModel) -> dict[str, Any]:
    """What the report's "run" says of an evaluation, beside its command."""
    facts = {
        "model": str(job.request.model),
        "base": job.plan.model.model_name_or_path,
        "quantization": adapters.quantization(model),
        "benchmark": job.request.benchmark,
        "split": job.request.split,
        "data": None if job.request.data is None else str(job.request.data),
        "system_prompt": job.request.system_prompt,
        "finetune": True if job.is_adapter and not recipe.written(job.folder) else None,  # no run of ours wrote it
    }
    return {key: value for key, value in facts.items() if value is not None}


def forget_texts(job: Job, views: Mapping[str, benchmarks.Sets]) -> dict[str, Any] | None:
    """Questions and greedy answers of the forget set, by view; None where none were generated."""
    answers = {view: sets["forget"].answers for view, sets in views.items()}
    if not all(answers.values()):
        return None
    special = special_ids(job.tokenizer)
    rows = job.benchmark.probes["forget"].rows
    return {"question": [text(job.tokenizer, split(row, special)[0]) for row in rows], "answers": answers}
