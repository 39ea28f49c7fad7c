"""From what `evaluate` and `audit` are asked for to checked sets and models, and from these to evaluations by view.

What can be wrong without a model is found before one is loaded.
"""

import argparse
import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn import benchmarks
from peft_unlearn.benchmarks.own import Own
from peft_unlearn.config import recipe
from peft_unlearn.data.rows import special_ids, split, text
from peft_unlearn.metrics.divergence import retain_kl
from peft_unlearn.model import adapters
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import locate
from peft_unlearn.workflows import loading, requests

SYSTEM = (
    "{{%- if messages[0]['role'] != 'system' %}}{{%- set messages = [{{'role': 'system', 'content': \"{}\"}}] + messages %}}{{%- endif %}}"
)


@dataclass(frozen=True)
class Job:
    """What is evaluated: sets and models, checked."""

    options: argparse.Namespace
    plan: recipe.Recipe
    folder: Path
    is_adapter: bool
    benchmark: benchmarks.Benchmark
    how: benchmarks.How
    tokenizer: PreTrainedTokenizerBase
    never_seen: Path | None  # a folder given by --never-seen

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
            return {
                "kind": "base" if same else "retrained",
                "name": self.options.never_seen or self.plan.model.never_seen_model_name_or_path,
            }
        return {"kind": "base", "name": base} if self.stacked else None


def plan(wanted: requests.Asked) -> Job:
    """Check files, rows, tokenizers and adapters, and tokenise.

    Raises:
        UserError: whatever the user can mend.
    """
    options, folder, is_adapter, values = wanted.options, wanted.folder, wanted.is_adapter, wanted.values
    made = recipe.build(values)
    named = None
    if options.benchmark:
        named = benchmarks.read(options.benchmark, options.data, split=options.split, rows=options.rows or 0)
    if is_adapter:
        loading.check_adapter(str(folder), values["model_name_or_path"], key="model", said=options.base is not None)
    sets = {} if named else loading.load_sets(made.data)
    if made.model.adapter_name_or_path:
        loading.check_adapter(made.model.adapter_name_or_path, values["model_name_or_path"], key="adapter_name_or_path")
    _, tokenizer, length = loading.load_tokenizer(made.model, made.training.max_length)
    never_seen = None
    other = options.never_seen or made.model.never_seen_model_name_or_path
    if other:
        never_seen = locate(other, requests.FILES, key="never-seen")
        loading.check_vocabulary(never_seen, tokenizer, key="never-seen")
    if options.system_prompt is not None:
        if not isinstance(tokenizer.chat_template, str):
            raise UserError(f"system-prompt: the tokenizer of {options.model} has no chat template to write it with, leave it out.")
        tokenizer.chat_template = SYSTEM.format(options.system_prompt.replace("\\", "\\\\").replace('"', '\\"')) + tokenizer.chat_template
    found: benchmarks.Benchmark
    if named:
        found = named
        found.prepare(tokenizer, length, made.data.chat_template_kwargs or {})
    else:
        found = Own(loading.tokenise(sets, tokenizer, length, made.data), made.data.eval_rows)
    how = benchmarks.How(options.definitions, made.training.per_device_eval_batch_size, options.samples)
    return Job(options, made, folder, is_adapter, found, how, tokenizer, never_seen)


def measure_views(job: Job) -> tuple[dict[str, benchmarks.Sets], dict[str, Any]]:
    """Evaluate every set in every view, one model in memory at a time; with facts for the report's "run"."""
    views, facts = {}, {}

    def look(view: str, model: PreTrainedModel) -> None:
        views[view] = measure_view(job, view, model)
        if view == "after":
            facts.update(run_facts(job, model))

    for_each_view(job, look)
    return views, facts


def for_each_view(job: Job, look: Callable[[str, PreTrainedModel], None], order: Sequence[str] | None = None) -> None:
    """Call `look` with the name of each of the job's views and its model, one model in memory at a time.

    The view holds while `look` runs: "before" is the base without the forgetting adapter, "after" the model that was given, "never_seen" a
    model that never saw the forget set. `order` names the views to see, by default all of `Job.views`.
    """
    entered = {"before": "reference", "after": "student", "never_seen": "never_seen"}
    model = None
    for view in job.views if order is None else order:
        if view == "never_seen" and job.never_seen is not None:
            model = None  # before the next one is loaded
            adapters.release()
            look(view, loading.load_never_seen(job.plan.model, job.never_seen, key="never-seen"))
            continue
        if model is None:
            model = loading.load_trained(job.plan.model, str(job.folder)) if job.is_adapter else loading.load_whole(job.plan.model)
        with adapters.view(model, entered[view]) if isinstance(model, PeftModel) else contextlib.nullcontext():
            look(view, cast(PreTrainedModel, model))


def measure_view(job: Job, view: str, model: PreTrainedModel) -> benchmarks.Sets:
    """Every set under one view of `for_each_view`; of an adapter, also how far it moved the retain set."""
    sets = job.benchmark.evaluate(model, job.tokenizer, job.how, view.replace("_", "-"))
    if view == "after" and isinstance(model, PeftModel) and "retain" in job.benchmark.probes and not job.how.as_peer:
        rows = job.benchmark.probes["retain"].rows
        looks = (partial(adapters.view, model, name) for name in ("reference", "student"))
        sets["retain"]["retain_kl"] = retain_kl(rows, *looks, batch_size=job.how.batch_size)
    return sets


def run_facts(job: Job, model: PreTrainedModel) -> dict[str, Any]:
    """What the report's "run" says of an evaluation."""
    facts = {
        "model": job.options.model,
        "base": job.plan.model.model_name_or_path,
        "quantisation": adapters.quantization(model),
        "benchmark": job.options.benchmark,
        "split": job.options.split,
        "data": job.options.data,
        "system_prompt": job.options.system_prompt,
        "command": command(job.options),
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


def command(options: argparse.Namespace) -> str:
    """The command again, with the options that were given."""
    words = ["peft-unlearn", options.command, options.model]
    for name, value in vars(options).items():
        if name not in ("command", "model", "run") and value is not None and value is not False and value != []:
            values = [] if value is True else value if isinstance(value, list) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)
