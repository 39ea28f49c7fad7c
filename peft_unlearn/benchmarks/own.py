"""The user's own sets: texts to forget, and if given texts to retain, holdout texts, and further ones."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.benchmarks.measuring import How, Sets, Views, compare_membership, measure
from peft_unlearn.data.alternates import REFUSALS
from peft_unlearn.data.rows import answer_texts, evenly, special_ids, split, text
from peft_unlearn.data.variants import Probe
from peft_unlearn.metrics.lexicon import lexicon
from peft_unlearn.metrics.recites_others import Recitable, common_runs


class Own:
    """Sets with "forget" among them.

    Args:
        probes: the tokenized sets.
        rows: rows of each set, evenly spaced; 0 is all. Of tokenized rows: a long text is several.
    """

    def __init__(self, probes: Mapping[str, Probe], rows: int) -> None:
        self.probes = {name: found.select(evenly(len(found.rows), rows)) for name, found in probes.items()}

    def evaluate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, how: How, label: str) -> Sets:
        """Every set under the active adapters."""
        shared = self.shared(tokenizer)
        return {
            name: measure(model, tokenizer, found, how, label=f"{label}, {name}", forget=name == "forget", shared=shared[name])
            for name, found in self.probes.items()
        }

    def shared(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, dict[str, Any]]:
        """What the rows of each set share: the words that exist, refusals' included, in whatever language the rows are; of forget rows, and of the
        holdout that they are compared with, the forget set's answers, and what stands in the other sets as well.
        """
        special = special_ids(tokenizer)
        parts = {name: [text(tokenizer, side) for row in found.rows for side in split(row, special)] for name, found in self.probes.items()}
        exist = {"lexicon": lexicon(tokenizer, chain(REFUSALS, *parts.values()))}
        runs = {name: common_runs(found) for name, found in parts.items() if name != "forget"}
        known, kept = (set().union(*(runs[name] for name in runs.keys() - without)) for without in ((), ("holdout",)))
        others = Recitable(answer_texts(tokenizer, self.probes["forget"].rows))
        recited = {**exist, "others": others, "known": known, "kept": kept}
        return {name: recited if name in ("forget", "holdout") else exist for name in self.probes}

    def compare(self, views: Views, how: How) -> None:
        """Add membership where there is a holdout set."""
        if "holdout" in self.probes:
            never_seen = views["never_seen"]["forget"] if "never_seen" in views else None
            for view in sorted(views, key="never_seen".__ne__):  # first, as PrivLeak of the others needs its AUC
                compare_membership(views[view]["forget"], views[view]["holdout"], never_seen, how)
