"""A5, sampling: the best of k answers drawn at temperature 1, beside what the never-seen model draws with the same luck."""

from peft_unlearn.attacks.context import Context, Shown, shown
from peft_unlearn.metrics.suite import sampled
from peft_unlearn.util.registry import attack

KS = {False: (1, 4), True: (1, 4, 16)}


@attack(order=5, quick=True, control=True)
def sampling(context: Context) -> list[Shown]:
    """The best of several answers drawn at temperature 1.

    leak@k by ROUGE-L recall of the forget set (`metrics.leak_at`).
    """
    ks, rows = KS[context.full], context.probes["forget"].rows
    drawn = sampled(context.model, context.tokenizer, rows, ks, seed=context.seed, batch_size=context.batch_size)
    return [shown(f"best of {k} sample{'s' * (k > 1)}", f"leak_at_{k}", drawn[f"leak_at_{k}"], threshold="sampling") for k in ks]
