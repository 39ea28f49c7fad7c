"""What a model still knows of texts or of a benchmark."""

import contextlib
from pathlib import Path

from peft_unlearn.util.folders import claimed
from peft_unlearn.workflows.command import command
from peft_unlearn.workflows.requests import EvaluateRequest
from peft_unlearn.workflows.results import EvaluateResult


def evaluate(request: EvaluateRequest) -> EvaluateResult:
    """Evaluate a model, or an adapter's base without and with it, beside a never-seen model where one is named.

    The report is written where the request says; with `show_text` its page, and no other file, holds texts of the forget set.

    Raises:
        UserError: what is wrong with the request, before torch is imported; or a model or set that cannot be used.
    """
    from peft_unlearn.workflows import checks, tasks

    tasks.check_installed(request.tasks)
    checked = checks.measured(request)
    checks.say_loading()
    tasks.check(request.tasks)

    from peft_unlearn import report
    from peft_unlearn.data.variants import grouped
    from peft_unlearn.report import page
    from peft_unlearn.workflows import views

    output = None if request.output is None else Path(request.output)
    with contextlib.nullcontext() if output is None else claimed(output.parent, key="output", file=output.name):
        job = views.prepare(checked, definitions=request.definitions, samples=request.samples, tasks=request.tasks)
        found, facts = views.measure_all(job)
        job.benchmark.compare(found, job.how)
        made = report.build(
            {name: {view: sets[name] for view, sets in found.items()} for name in found["after"]},
            run={**facts, "command": command("evaluate", request)},
            never_seen=job.never_seen_facts(),
            definitions=job.how.definitions,
            groups=grouped(job.benchmark.probes),
        )
        texts = views.forget_texts(job, found) if request.show_text else None
        if output is None:
            return EvaluateResult(made, texts)
        report.write(made, output)
        page.write(made, output.with_suffix(".html"), texts=texts)
    return EvaluateResult(made, texts, output, output.with_suffix(".html"))
