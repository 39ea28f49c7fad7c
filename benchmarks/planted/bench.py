"""A case's report, made as `peft-unlearn evaluate` makes it. What is the same in several cases is measured once."""

import copy
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from beds.models import Bed
from peft_unlearn import report
from peft_unlearn.benchmarks import How
from peft_unlearn.benchmarks.measuring import measure
from peft_unlearn.benchmarks.own import Own
from peft_unlearn.data.variants import Probe, grouped
from peft_unlearn.metrics.results import Evaluation
from planted.behaviors import BEHAVIORS, EVERYWHERE, TWINS, Plant
from planted.cases import Case

HOW = How(batch_size=64)


@dataclass
class Bench:
    """The cases of one kind."""

    bed: Bed
    done: dict[tuple[str, str, int], Evaluation] = field(default_factory=dict)

    def report(self, case: Case) -> dict[str, Any]:
        probes = {"forget": self._first("forget", case.size), "retain": self.bed.sets["retain"]}
        if case.holdout:
            probes["holdout"] = self.bed.sets["holdout"]
        after = f"twin {case.twin}" if case.behavior == TWINS else case.behavior
        views = {"before": "before", "after": after} | ({"never_seen": "never seen"} if case.never_seen else {})
        # copies, for what compares sets writes into them
        found = {view: {name: copy.copy(self._measured(who, name, case.size)) for name in probes} for view, who in views.items()}
        Own(probes, 0).compare(found, HOW)
        return report.build(
            {name: {view: sets[name] for view, sets in found.items()} for name in probes},
            run={"planted": case.name},
            never_seen={"kind": "retrained", "name": "never seen"} if case.never_seen else None,
            definitions=HOW.definitions,
            groups=grouped(probes),
        )

    def _measured(self, who: str, name: str, size: int) -> Evaluation:
        """A set under a model or a behavior. What is planted in the forget set leaves the others as before."""
        if name != "forget":
            size = 0  # all of it, whatever the number of forget rows
            who = "before" if who in BEHAVIORS and who != EVERYWHERE else who
        key = (who, name, size)
        if key not in self.done:
            probe = self._first(name, size)
            sets = {**self.bed.sets, name: probe} if name == "forget" else self.bed.sets
            shared = Own(sets, 0).shared(self.bed.tokenizer)[name]
            model = self._model(who, probe)
            self.done[key] = measure(model, self.bed.tokenizer, probe, HOW, label=who, forget=name == "forget", shared=shared)
        return self.done[key]

    def _first(self, name: str, size: int) -> Probe:
        """The first rows of a set, so that rows of one subject stay together; all where `size` is 0."""
        whole = self.bed.sets[name]
        return whole.select(range(len(whole.rows))[: size or None])

    def _model(self, who: str, probe: Probe) -> PreTrainedModel:
        """What is planted mixes the model before with a twin, not with the never-seen model that it is compared with."""
        if who not in BEHAVIORS:
            return self.bed.model(who)
        return Plant(self.bed.model("before"), self.bed.model("twin 1"), self.bed.tokenizer, probe, self.bed.kind.refusal).model(who)
