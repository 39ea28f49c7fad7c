"""What an adapter does to questions that have nothing to do with what it forgot: multiple choice and greedy answers, before and after.

    python benchmarks/neutral.py runs/forgotten --questions real_authors_perturbed.json world_facts_perturbed.json

A file has a JSON object a line: `question`, `answer`, and the wrong choices as a list `perturbed_answer`; the files named above are TOFU's. Questions
are asked in the run's own template. One is right where the log-probability of its answer, without what ends it, is above that of each wrong choice.
An interval is that of 95 % by a bootstrap over questions: of the paired difference, or of the share of greedy answers that stay to the letter.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.data.variants import Probe
from peft_unlearn.metrics.probability import probability
from peft_unlearn.model.generation import generate
from peft_unlearn.model.scoring import RowScore, score
from peft_unlearn.util.errors import UserError
from peft_unlearn.workflows import EvaluateRequest, checks, views

DRAWS = 10_000
WRONG = "perturbed_answer"
UNREAD = dict.fromkeys(("retain_dataset", "holdout_dataset", "eval_dataset", "group_column"))  # of the run's recipe


def ask(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probe: Probe) -> tuple[list[bool], list[float], list[str]]:
    """Of each question whether the right choice is the likeliest, the probability of the right answer, and the greedy answer."""
    sizes = [1 + len(wrong) for wrong in probe.variants[WRONG]]
    flat = [choice for row, wrong in zip(probe.rows, probe.variants[WRONG], strict=True) for choice in (row, *wrong)]
    scores = score(model, flat, tokenizer)
    right, likely = [], []
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        own, *wrong = scores[end - size : end]
        right.append(said(own) > max(map(said, wrong)))
        likely.append(probability(own))
    return right, likely, generate(model, tokenizer, probe.rows)


def said(choice: RowScore) -> float:
    """Log-probability of an answer without its end."""
    return float(choice.logps[: len(choice.logps) - choice.end].sum())


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % of the means of as many values, drawn with replacement."""
    drawn = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(np.asarray(values, float)[drawn].mean(-1), [0.025, 0.975])
    return float(low), float(high)


def compare(adapter: str, questions: Sequence[str], *, base: str | None = None, rows: int = 200) -> dict[str, dict[str, object]]:
    """Of each measure its means before and after, and an interval.

    Raises:
        UserError: no adapter, or a question without wrong choices; what `evaluate` refuses.
    """
    texts = {"path": "json", "data_files": list(questions)}
    job = views.prepare(checks.measured(EvaluateRequest(adapter, base=base, forget=texts, rows=rows, settings=UNREAD)))
    if not job.is_adapter:
        raise UserError(f"adapter: {adapter} is a whole model, write the output folder of a run.")
    probe = job.benchmark.probes["forget"]
    if not all(probe.variants.get(WRONG, [[]])):
        raise UserError(f"questions: one has no wrong choices; give each a list {WRONG} beside its question and answer.")
    found = {}

    def measure(view: str, model: PreTrainedModel) -> None:
        found[view] = ask(model, job.tokenizer, probe)

    views.for_each_view(job, measure, order=("before", "after"))
    (right, likely, answers), (right_after, likely_after, answers_after) = found["before"], found["after"]
    table = {}
    for name, before, after in (("accuracy", right, right_after), ("probability", likely, likely_after)):
        change = np.subtract(after, before, dtype=float)
        table[name] = {
            "before": float(np.mean(before)),
            "after": float(np.mean(after)),
            "change": float(change.mean()),
            "interval": interval(change),
        }
    same = [one == other for one, other in zip(answers, answers_after, strict=True)]
    table["unchanged answers"] = {"before": 1.0, "after": float(np.mean(same)), "change": None, "interval": interval(same)}
    return {"questions": {"n": len(same)}, **table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", help="the output folder of a run")
    parser.add_argument("--questions", nargs="+", required=True, help="JSON files of a question a line")
    parser.add_argument("--base", help="the base, if it is not where the adapter says")
    parser.add_argument("--rows", type=int, default=200, help="questions, evenly spaced; 0 is all")
    options = parser.parse_args()
    found = compare(options.adapter, options.questions, base=options.base, rows=options.rows)
    print(f"| {found.pop('questions')['n']} questions | before | after | change | 95 % |\n| --- | --- | --- | --- | --- |")
    for name, one in found.items():
        low, high = one["interval"]
        change = "" if one["change"] is None else f"{one['change']:+.3f}"
        print(f"| {name} | {one['before']:.3f} | {one['after']:.3f} | {change} | {low:.3f} to {high:.3f} |")


if __name__ == "__main__":
    main()
