"""The user's own sets: texts to forget, and if given texts to retain, holdout texts, and further ones."""

from collections.abc import Mapping

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.benchmarks.files import evenly
from peft_unlearn.benchmarks.measuring import How, Sets, Views, compare_membership, measure
from peft_unlearn.data.variants import Probe


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
        return {
            name: measure(model, tokenizer, found, how, label=f"{label}, {name}", forget=name == "forget")
            for name, found in self.probes.items()
        }

    def compare(self, views: Views, how: How) -> None:
        """Add membership where there is a holdout set."""
        if "holdout" in self.probes:
            never_seen = views["never_seen"]["forget"] if "never_seen" in views else None
            for view in sorted(views, key="never_seen".__ne__):  # first, as PrivLeak of the others needs its AUC
                compare_membership(views[view]["forget"], views[view]["holdout"], never_seen, how)
