"""What attacks bring back of what an adapter made a model forget."""

from pathlib import Path

from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import claimed
from peft_unlearn.workflows.requests import AuditRequest
from peft_unlearn.workflows.results import EvaluateResult


def audit(request: AuditRequest) -> EvaluateResult:
    """Evaluate a model and attack it, beside a never-seen model where one is named; write the report, its page and the model card.

    Each attack is kept as it ends (`audit.json` beside the report), and a second call with the same request goes on from there.

    Raises:
        UserError: what is wrong with the request, before torch is imported; or a model or set that cannot be used.
    """
    if request.output is None and not Path(request.model).is_dir():
        raise UserError(f"output: {request.model} is no local folder that a report could lie in, write --output FILE.")
    from peft_unlearn.workflows import checks

    checked = checks.measured(request)
    checks.say_loading()

    from peft_unlearn import attacks, report
    from peft_unlearn.report import page
    from peft_unlearn.workflows import audit_run, loading, views

    chosen = attacks.choose(request.attacks, full=request.full)
    output = Path(request.output or Path(request.model) / "report.json")
    # Of the folder for the sake of audit.json, and against a run that trains there.
    with claimed(output.parent, key="output"), claimed(output.parent, key="output", file=output.name):
        job = views.prepare(checked)
        for other in request.others:
            loading.check_beside(job.plan.model, str(other), key="with")
        made, texts = audit_run.run(job, request, chosen, output)
        report.write(made, output)
        page.write(made, output.with_suffix(".html"), texts=texts)
        if job.is_adapter and output.resolve() == (job.folder / "report.json").resolve() and "settings" in made["run"]:
            audit_run.write_card(job, made)
    return EvaluateResult(made, texts, output, output.with_suffix(".html"))
