"""A7, membership: whether the forget rows can be told from rows that no model saw, by the model alone and by the adapter switched off and on."""

from peft_unlearn.attacks.context import Context, Shown, Skipped, plain_rows, shown
from peft_unlearn.metrics import membership as members
from peft_unlearn.metrics.results import Evaluation
from peft_unlearn.metrics.statistics import auc_difference
from peft_unlearn.util.registry import attack


@attack(order=7, quick=True, control=True)
def membership(context: Context) -> list[Shown]:
    """Forget rows told from holdout rows, by the model and by the adapter off and on.

    AUCs of forget against holdout rows, from the plain numbers: Min-K has the threshold, on both sides of the never-seen model's.

    Off/on is the AUC of each row's loss with the adapter minus its loss without: 1 where every forget row lost more than every holdout row.
    It is what an adapter gives away by lying beside its base.
    """
    if "holdout" not in context.probes:
        raise Skipped("there is no holdout set")
    sets = context.plain[context.view]
    rows = {name: {metric: plain_rows(sets[name][metric]) for metric in members.SIGNS} for name in ("forget", "holdout")}
    forget, holdout = (Evaluation(rows[name], []) for name in ("forget", "holdout"))
    found = []
    for name, result in members.membership(forget, holdout).items():
        entry = shown("forget against holdout rows", name, result, threshold="membership" if name == "min_k_auc" else None)
        if name == "min_k_auc" and "never_seen" in context.plain:
            twin = context.plain["never_seen"]
            own, other = ((of["forget"]["min_k"]["rows"], of["holdout"]["min_k"]["rows"]) for of in (sets, twin))
            excess = auc_difference(own, other, groups=(context.groups, context.probes["holdout"].groups))
            entry |= {} if excess.interval is None else {"excess": excess.interval}
        found.append(entry)
    if context.view == "after" and "before" in context.plain:
        off = context.plain["before"]
        rises = {
            name: [
                None if on is None or was is None else was - on
                for on, was in zip(rows[name]["loss"], plain_rows(off[name]["loss"]), strict=True)
            ]
            for name in ("forget", "holdout")
        }
        sides = [Evaluation(dict.fromkeys(members.SIGNS, rises[name]), []) for name in ("forget", "holdout")]
        found.append(shown("loss with the adapter on minus off", "loss_rise_auc", members.membership(*sides)["loss_auc"]))
    return found
