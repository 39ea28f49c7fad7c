"""What happened in training that a reader must know, and what to do next: plain sentences from a report's facts and criteria."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peft_unlearn.report import criteria as c
from peft_unlearn.report.criteria import Criterion

AUDIT = "Attack it: `peft-unlearn audit` tries what precision, other prompts, samples and relearning bring back."


# What a check of early stopping may miss, and what helps where a run comes no nearer.
LACKING = {
    "mean": "the forget rows' mean log-probability misses its target",
    "membership": "the forget rows can be told from the holdout",
    "retain": "the retain set has lost probability",
    "extraction": "forget rows go on by themselves for longer than holdout rows",
    "answers": "what is to be said instead is not said everywhere",
    "recited": "forget rows come back word for word",
    "inner": "inner layers know more of the forget rows than a never-seen model's",
}
HELPS = {
    "mean": "A larger adapter comes nearer: lora_r: 64, or a higher learning_rate.",
    "membership": "More holdout rows of the forget set's kind tell better where to stop.",
    "retain": "More retain rows, most of all such that are like the forget rows, or a higher retain_coef, keep more.",
    "answers": "A higher answers_coef teaches it sooner, a larger adapter (lora_r: 64) better.",
    "recited": "A higher forget_coef, or a larger adapter (lora_r: 64), pushes the last rows out.",
    "inner": "A higher logit_lens_coef, or an adapter on all linear layers, reaches them.",
    "extraction": "More holdout rows of the forget set's kind, or a larger adapter (lora_r: 64), come nearer.",
}
ONE_SIDED = ("retain", "extraction", "answers", "inner", "recited")  # better than they should be is no miss


def training(run: Mapping[str, Any]) -> list[str]:
    """What of a run is not as it was planned; empty where all is."""
    said = []
    if run.get("stopped"):
        said.append(f"The run stopped early: {str(run['stopped']).rstrip('.')}.")
    if run.get("returned"):
        went = ", ".join(f"from step {bad} to {good}" for bad, good in run["returned"])
        said.append(f"The run went back to its last good state, and on at half the rate: {went}.")
    if run.get("retain_kl_max"):
        said.append(_spent(run["retain_kl_max"]))
    if run.get("reached") is False:
        said.append(f"The run did not reach its target: {_ended(run)}.")
    if run.get("unmoved_lora_b"):
        said.append(f"{run['unmoved_lora_b']} layers of the adapter did not move: they forget nothing.")
    return said


def _spent(budget: Mapping[str, Any]) -> str:
    """What a run has spent of its budget for side effects."""
    earlier = (
        f"; the adapter is that of step {budget['step']} of {budget['of']}, the last one within" if budget["step"] < budget["of"] else ""
    )
    earlier += f", and {budget['way']:.0%} of the way on from it" if budget.get("way") else ""
    where = "texts that the model wrote itself" if budget["from"] != "retain_dataset" else "retain rows that were not trained on"
    return (
        f"Its divergence from the reference came to {budget['spent']:.3g} nats a token on {budget['rows']} {where}, "
        f"of {budget['limit']:g} allowed{earlier}."
    )


def _worst(missed: Mapping[str, float]) -> str:
    """What a check missed by most."""
    return max(missed, key=lambda name: missed[name] if name in ONE_SIDED else abs(missed[name]), default="")


def _ended(run: Mapping[str, Any]) -> str:
    """Why a run ended before its target, and what that target lacks most."""
    settings, steps, missed = run.get("settings", {}), run.get("steps"), run.get("missed") or {}
    worst = _worst(missed)
    lacks = f"; {LACKING[worst]} by {abs(missed[worst]):.1f} times what it may miss" if worst and abs(missed[worst]) > 1 else ""
    if run.get("ended") == "retain_kl_max":
        return f"after {steps} steps it was outside its budget for the retain set, and went back{lacks}"
    if run.get("ended") == "no_nearer":
        return f"after {steps} steps it came no nearer{lacks}"
    if run.get("ended") == "max_minutes":
        return f"its {settings.get('max_minutes'):g} minutes were over after {steps} steps{lacks}"
    last = settings.get("max_steps")
    return f"it ended after {steps} steps{', its last one' if last and steps is not None and steps >= last else ''}{lacks}"


def following(word: str | None, found: Sequence[Criterion], run: Mapping[str, Any], kind: str | None) -> list[str]:
    """What to do next, the most useful first."""
    past = [criterion for criterion in found if criterion.state == c.FAILED or (criterion.state == c.NOT_SHOWN and criterion.size > 1)]
    failed = {criterion.name for criterion in past if criterion.value is not None or criterion.state == c.FAILED}
    open_ = [criterion for criterion in found if criterion.state == c.NOT_SHOWN]
    return list(dict.fromkeys([*_mend(word, failed, run), *_show(open_, kind), *_then(word, found)]))


def _mend(word: str | None, failed: set[str], run: Mapping[str, Any]) -> Iterator[str]:
    steps, attacks = run.get("steps"), {name.removeprefix("attack_") for name in failed if name.startswith("attack_")}
    if word == c.NOT_FORGOTTEN:
        if run.get("ended") == "no_nearer" and (missed := run.get("missed")):
            yield HELPS[_worst(missed)]
            return
        if run.get("ended") == "retain_kl_max":
            yield "A larger budget for the retain set: a higher retain_kl_max, or none."
            return
        if run.get("ended") == "max_minutes":
            yield "More time: train again with --resume_from_checkpoint true and a larger max_minutes, or none."
            return
        more = f"More steps: max_steps: {2 * steps}" if steps else "Train it longer"
        yield (
            f"{more}, or a higher learning_rate."
            if run.get("reached") is not True
            else "Train again with a higher learning_rate, or forget_coef."
        )
    if word == c.SUPPRESSED and (failed & {"reworded_probability", "reworded_memorization", "worst_of_k"} or "prompts" in attacks):
        yield "Add other wordings of the forget rows to the forget set, so that more than the exact question is forgotten."
    if "logit_lens" in failed or "white_box" in attacks:
        yield "Reach the inner layers: logit_lens_coef: 0.3."
    if "relearning" in attacks:
        yield "Harden it against relearning: sam_rho: 0.2."
    if "precision" in attacks or "scale" in attacks:
        yield "Train it for the precision that it is deployed in: train_quantized: true, and merge into 16-bit weights."
    if failed & {"loss_beyond", "membership_below", "degenerate", "nonwords", "entropy", "holdout_damage"}:
        stops = run.get("settings", {}).get("stop_at", "none") != "none"
        yield f"Push less: {'' if stops else 'stop_at: auto with a holdout_dataset, '}fewer steps or a lower learning_rate."
    if word == c.COLLAPSED:
        yield "Keep more: a larger retain_dataset, retain_kl, or a lower learning_rate."


def _show(open_: Sequence[Criterion], kind: str | None) -> Iterator[str]:
    if kind is None:
        yield "Name a model that never saw the rows (--never-seen), or give a holdout of at least 48 rows of their kind (--holdout)."
    needed = max((criterion.rows_needed or 0 for criterion in open_), default=0)
    held = [criterion for criterion in open_ if criterion.name.startswith("membership") or criterion.name == "holdout_damage"]
    if needed and kind is not None:
        if len(held) == len(open_):
            yield f"A larger holdout: about {needed} rows would show what is still open."
        else:
            yield f"More rows: about {needed} would show what is still open; where there are no more, it cannot be shown."


def _then(word: str | None, found: Sequence[Criterion]) -> Iterator[str]:
    if word == c.FORGOTTEN and not any(criterion.name.startswith("attack_") for criterion in found):
        yield AUDIT
