"""TOFU (arXiv 2401.06121): made-up authors to forget, others to keep, real authors and world facts that nothing should touch.

| set | file | rows of forget10 |
| --- | --- | --- |
| forget | forgetNN_perturbed | 400 |
| retain | retain_perturbed | 400 |
| real_authors | real_authors_perturbed | 100 |
| world_facts | world_facts_perturbed | 117 |
| holdout, where it is there | holdoutNN: authors that no model of the benchmark saw | 400 |

A row has question, answer, wrong answers (perturbed_answer) and, of the authors that are made up, both in other words. On the Hub the files
are configurations of locuslab/TOFU.
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.benchmarks.files import Check, Source, spread, text, text_or_texts, texts
from peft_unlearn.benchmarks.measuring import How, Sets, Views, compare_membership, forget_quality, measure, model_utility
from peft_unlearn.data.variants import REWORDED, Probe, probe
from peft_unlearn.util.errors import UserError

SPLITS = ("forget01", "forget05", "forget10")
QUESTION: Mapping[str, Check] = {"question": text, "answer": text}
PERTURBED: Mapping[str, Check] = {**QUESTION, "perturbed_answer": texts}
PARAPHRASED: Mapping[str, Check] = {**PERTURBED, "paraphrased_question": text_or_texts, "paraphrased_answer": text_or_texts}
UTILITY = ("retain", "real_authors", "world_facts")


class Tofu:
    """One split of TOFU, read and checked; `prepare` tokenizes it.

    Raises:
        UserError: an unknown split, a missing file, or a row without an answer.
    """

    def __init__(self, source: Source, split: str | None, rows: int) -> None:
        self.split = split or "forget10"
        if self.split not in SPLITS:
            raise UserError(f"split: {split!r} is not one of {', '.join(SPLITS)}.")
        files = {
            "forget": (f"{self.split}_perturbed", PARAPHRASED),
            "retain": ("retain_perturbed", PARAPHRASED),
            "real_authors": ("real_authors_perturbed", PERTURBED),
            "world_facts": ("world_facts_perturbed", PERTURBED),
        }
        holdout = self.split.replace("forget", "holdout")
        if source.has(holdout, "train"):
            files["holdout"] = (holdout, QUESTION)
        self.data = {name: spread(source.read(config, "train", checks), rows) for name, (config, checks) in files.items()}
        self.probes: dict[str, Probe] = {}

    def prepare(self, tokenizer: PreTrainedTokenizerBase, max_length: int, template: Mapping[str, Any]) -> None:
        self.probes = {
            name: probe(
                found,
                tokenizer,
                max_length,
                name=f"data, {name}",
                template_arguments=template,
                reword=name in REWORDED,
            )
            for name, found in self.data.items()
        }

    def evaluate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, how: How, label: str) -> Sets:
        """Every set under the active adapters. The holdout only stands beside the forget set, so it answers no questions."""
        return {
            name: measure(model, tokenizer, found, how, label=f"{label}, {name}", forget=name == "forget", generate=name != "holdout")
            for name, found in self.probes.items()
        }

    def compare(self, views: Views, how: How) -> None:
        """Add utility and membership of each view, and forget quality: the never-seen model's is 1 by itself, so it has none."""
        never_seen = views["never_seen"]["forget"] if "never_seen" in views else None
        for view in sorted(views, key="never_seen".__ne__):  # first, as PrivLeak of the others needs its AUC
            sets = views[view]
            sets["retain"]["model_utility"] = model_utility([sets[name][metric]["rows"] for name in UTILITY for metric in _parts(name)])
            if "holdout" in sets:
                compare_membership(sets["forget"], sets["holdout"], never_seen, how)
            if view != "never_seen":
                ratios = None if never_seen is None else never_seen["truth_ratio"]["rows"]
                sets["forget"]["forget_quality"] = forget_quality(sets["forget"]["truth_ratio"]["rows"], ratios)


def _parts(name: str) -> tuple[str, str, str]:
    """What of a set goes into the utility; of real authors and world facts it is the probability among the options."""
    return ("probability" if name == "retain" else "normalized_probability", "rouge_l", "truth_ratio_score")
