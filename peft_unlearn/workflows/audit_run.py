"""One audit: evaluate each view, attack the never-seen model and then the model, and judge what came back.

Whatever ends is kept beside the report (kept.py): a second call goes on from there, and the first one from what the run has evaluated.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedModel

from peft_unlearn import attacks, benchmarks, publish, report
from peft_unlearn.attacks import judging
from peft_unlearn.data.variants import grouped
from peft_unlearn.metrics.results import Evaluation
from peft_unlearn.publish.model_card import shown
from peft_unlearn.util.errors import UserError
from peft_unlearn.util.folders import ADAPTER_CONFIG, read_json
from peft_unlearn.workflows import loading, views
from peft_unlearn.workflows.command import command
from peft_unlearn.workflows.kept import ATTACKED, FILE, Progress, key
from peft_unlearn.workflows.requests import AuditRequest

ORDER = ("never_seen", "before", "after")  # what the model under audit is compared with comes first


def run(
    job: views.Job, request: AuditRequest, chosen: Sequence[attacks.Attack], output: Path
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The report of an audit, and the texts to show where the request asks for them.

    Raises:
        UserError: what loading refuses.
    """
    trained = _trained(output)
    others = [str(name) for name in request.others]
    done = Progress(output.with_name(FILE), key(job.plan.model, job.folder, job.never_seen, job.benchmark.probes, others))
    texts = request.show_text  # they are never written, so answers are made again
    seen: dict[str, benchmarks.Sets] = {}

    def measure_and_attack(view: str, model: PreTrainedModel) -> None:
        if texts or view not in done.views:
            seen[view] = views.measure_view(job, view, model)
            done.keep(view, seen[view])
        if view == "after":
            done.facts = {**views.run_facts(job, model), "command": command("audit", request)}
        done.write()
        if view in ATTACKED:
            _attack(job, request, view, model, done, done.missing(chosen, view, request.full))

    order = [view for view in ORDER if view in job.views]
    unfinished = [view for view in order if texts or view not in done.views or done.missing(chosen, view, request.full)]
    views.for_each_view(job, measure_and_attack, unfinished)

    groups = job.benchmark.probes["forget"].groups
    found = {view: {name: _evaluation(entries) for name, entries in done.views[view].items()} for view in job.views}
    job.benchmark.compare(found, job.how)
    made = report.build(
        {name: {view: sets[name] for view, sets in found.items()} for name in found["after"]},
        never_seen=job.never_seen_facts(),
        groups=grouped(job.benchmark.probes),
        attacks={name: _judged(attack, done, groups) for name, attack in attacks.ATTACKS.items()},
        **(trained or {"run": done.facts}),
    )
    return made, views.forget_texts(job, {view: seen[view] for view in job.views}) if texts else None


def write_card(job: views.Job, made: dict[str, Any]) -> None:
    """Bring the model card of the run that `made` reports up to date."""
    run, model = made["run"], job.plan.model
    adapter = read_json(job.folder / ADAPTER_CONFIG)
    publish.write_card(
        job.folder,
        base=adapter["base_model_name_or_path"] or "./base",
        method=run["settings"]["method"],
        settings=shown(run["settings"], adapter, run["steps"]),
        quantization=run.get("quantization"),
        revision=adapter.get("revision"),
        report=made,
        below=model.adapter_name_or_path,
        below_mode=model.adapter_mode,
        reference=model.reference_adapter_name_or_path,
    )


def _attack(
    job: views.Job, request: AuditRequest, view: str, model: PreTrainedModel, done: Progress, pending: Sequence[attacks.Attack]
) -> None:
    """Make the attacks that are missing on one view, and write each as it ends; none but sanity where that does not hold."""
    context = attacks.Context(
        model=model,
        tokenizer=job.tokenizer,
        probes=job.benchmark.probes,
        plain=done.views,
        view=view,
        full=request.full,
        batch_size=job.how.batch_size,
        load_dense=(lambda: loading.load_dense(job.plan.model)) if view == "after" else None,
        start=job.plan.model.adapter_name_or_path if job.plan.model.adapter_mode == "continue" else None,
        others=[str(other) for other in request.others],
        groups=job.benchmark.probes["forget"].groups,
    )
    with tqdm(pending, desc=f"attacks on {'never-seen' if view == 'never_seen' else 'the model'}", unit="attack") as bar:
        for attack in bar:
            bar.set_postfix_str(attack.name)
            if view == "after" and attack.name != "sanity" and _judged(attacks.ATTACKS["sanity"], done)["passed"] is False:
                return
            start = time.monotonic()
            entry: dict[str, Any] = {"full": request.full, "shown": [], "reason": None}
            try:
                entry["shown"] = attack(context)
            except attacks.Skipped as reason:
                entry["reason"] = str(reason)
            done.shown[view][attack.name] = {**entry, "seconds": round(time.monotonic() - start, 1)}
            done.write()


def _judged(attack: attacks.Attack, done: Progress, groups: Sequence[int] = ()) -> dict[str, Any]:
    """The report's entry of one attack, made or not."""
    entry = dict(done.shown["after"].get(attack.name) or {"full": False, "shown": [], "reason": "it was not made", "seconds": 0.0})
    control = done.shown["never_seen"].get(attack.name, {"shown": [], "seconds": 0.0})
    findings = judging.judge(entry["shown"], control["shown"], done.views, groups)
    passed = judging.passed(findings)
    if passed is None and entry["reason"] is None:
        entry["reason"] = judging.reason(findings)
    return {
        "title": attack.help.rstrip("."),
        "quick": attack.quick,
        "full": entry["full"],
        "passed": passed,
        "reason": entry["reason"] if passed is None else None,
        "seconds": round(entry["seconds"] + control["seconds"], 1),
        "findings": findings,
    }


def _evaluation(found: dict[str, Any]) -> Evaluation:
    evaluation = Evaluation({}, [])
    evaluation.update(found)
    return evaluation


def _trained(output: Path) -> dict[str, Any] | None:
    """Settings and curve of the run, where the report of its training lies at `output` already: an audit adds to it."""
    if not output.is_file():
        return None
    try:
        found = report.read(output)
    except UserError as error:
        raise UserError(f"output: {output} is there and no report, write another name, or remove it.") from error
    return {"run": found["run"], "curve": found["curve"]} if "settings" in found["run"] else None
