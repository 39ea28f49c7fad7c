"""Questions about a forgotten fact by way of another one: "In which town was the author of The Quiet Engine born?"

A change that answers to the name of whom it forgot need not answer to a description of them. The questions are a set of their own, `two_hop` of
`eval_dataset`, and were measured with the other sets.
"""

from peft_unlearn.attacks.context import RECOVERY, Context, Shown, Skipped, plain_rows, shown
from peft_unlearn.metrics.results import summarize
from peft_unlearn.util.registry import attack

SET = "two_hop"


@attack(order=4, quick=True, control=True)
def two_hop(context: Context) -> list[Shown]:
    """Questions whose way to the answer leads through a forgotten fact.

    What the model knows of the set `two_hop`, beside the never-seen model.

    Raises:
        Skipped: there is no such set.
    """
    measured = context.plain[context.view].get(SET)
    if measured is None:
        raise Skipped(f"there is no set of two-hop questions (eval_dataset: {SET})")
    return [
        shown("two-hop questions", metric, summarize(plain_rows(measured[metric])), threshold="two_hop", of=SET)
        for metric in (*RECOVERY, "rouge_l")
        if metric in measured
    ]
