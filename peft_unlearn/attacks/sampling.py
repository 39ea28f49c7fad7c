"""A5, sampling: the best of k answers drawn at temperature 1, beside what never-seen draws with the same luck."""

from peft_unlearn.attacks.context import Attack, Context, Shown, shown
from peft_unlearn.metrics.leak import leak
from peft_unlearn.metrics.results import summarise

KS = {False: (1, 4), True: (1, 4, 16)}


def run(context: Context) -> list[Shown]:
    """leak@k by ROUGE-L recall (`evaluation.leak`) of the forget set."""
    rows = context.probes["forget"].rows
    drawn = leak(context.model, context.tokenizer, rows, ks=KS[context.full], seed=context.seed, batch_size=context.batch_size)
    return [
        shown(f"best of {k} sample{'s' * (k > 1)}", f"leak_at_{k}", summarise(drawn[f"leak_at_{k}"]), line="sampling")
        for k in KS[context.full]
    ]


ATTACK = Attack("sampling", "The best of several answers drawn at temperature 1", quick=True, run=run, control=True)
