"""What a run came to, in numbers and in words: a model beside the one before it and a twin that never saw the forget set."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from beds.models import Bed
from peft_unlearn import metrics
from peft_unlearn.data.alternates import REFUSALS
from peft_unlearn.data.rows import Row, special_ids, split, text
from peft_unlearn.data.variants import Probe
from peft_unlearn.metrics.membership import auc
from peft_unlearn.metrics.nonwords import nonwords
from peft_unlearn.metrics.results import Evaluation
from peft_unlearn.metrics.rouge_l import rouge_l
from peft_unlearn.metrics.words import words
from peft_unlearn.model.scoring import score

BATCH = 64
ASKED = " asked otherwise"  # behind a set's name: its rows with their questions in other words
SHOWN = 10  # answers that are kept to be read
DRAWS = 1000  # of the bootstrap
LONGEST_REFUSAL = 16  # words; of Japanese, whose words are characters, half as many again as its refusal has

Sets = Mapping[str, Evaluation]


@dataclass
class Beside:
    """What numbers are compared with: a bed's model before unlearning, and its never-seen model, in the precision that the run has.

    And a second model that never saw the forget set: greedy answers are likeliest to the one that gave them, and this tells how unlikely to the
    twin the answers of such a model may be.
    """

    bed: Bed
    before_model: PreTrainedModel
    twin_model: PreTrainedModel
    second_model: PreTrainedModel

    @cached_property
    def probes(self) -> dict[str, Probe]:
        found = dict(self.bed.of_run)
        for name in ("forget", "retain"):
            wordings = found[name].variants.get("paraphrased_question", [])
            if asked := [row for rows in wordings for row in rows]:
                found[name + ASKED] = Probe(asked, {})
        return found

    @cached_property
    def before(self) -> Sets:
        return self.measured(self.before_model)

    @cached_property
    def twin(self) -> Sets:
        return self.measured(self.twin_model)

    @cached_property
    def second(self) -> Evaluation:
        """The forget set under the second twin."""
        return self._evaluated(self.second_model, "forget")

    @cached_property
    def lexicon(self) -> frozenset[str]:
        """The words of all rows. A token of a small vocabulary is no word by being one."""
        special = special_ids(self.bed.tokenizer)
        parts = (part for probe in self.probes.values() for row in probe.rows for part in split(row, special))
        return frozenset(word for part in parts for word in words(text(self.bed.tokenizer, part)))

    def measured(self, model: PreTrainedModel) -> Sets:
        """Every set, its questions answered greedily."""
        return {name: self._evaluated(model, name) for name in self.probes}

    def _evaluated(self, model: PreTrainedModel, name: str) -> Evaluation:
        return metrics.evaluate(model, self.bed.tokenizer, self.probes[name].rows, batch_size=BATCH, label=name)

    def compare(self, model: PreTrainedModel) -> dict[str, Any]:
        """The numbers of a model, `[its own, the other's]` where it has to be beside another: the twin's, or of the retain set that before."""
        after, twin, before = self.measured(model), self.twin, self.before
        answers = {view: sets["forget"].answers for view, sets in (("before", before), ("after", after), ("twin", twin))}
        found = {
            "log_p": [-after["forget"]["loss"]["mean"], -twin["forget"]["loss"]["mean"]],
            "log_p_before": -before["forget"]["loss"]["mean"],
            "probability_before": before["forget"]["probability"]["mean"],
            **{f"{name}_auc": self._auc(after, twin, name) for name in ("fresh", "holdout")},
            **{
                f"{name}: {metric}": [after[name][metric]["mean"], (before if name.startswith("retain") else twin)[name][metric]["mean"]]
                for name, some in METRICS.items()
                for metric in some
                if name in after
            },
            "existing_words": [self._existing(answers[view]) for view in ("after", "twin")],
            "perplexity": [self._perplexity(answers[view]) for view in ("after", "twin")],
            "same_answers": float(np.mean([one == other for one, other in zip(answers["after"], answers["twin"], strict=True)])),
            "unseen": {name: [sets[name]["min_k"]["mean"] for sets in (after, before, twin)] for name in ("fresh", "holdout")},
            "second_perplexity": self._perplexity(self.second.answers),
            "second_log_p": -self.second["loss"]["mean"],
            "refused": {name: float(np.mean([self._refused(answer) for answer in sets.answers])) for name, sets in after.items()},
            "answers": self._shown(answers),
        }
        return {name: _rounded(value) for name, value in found.items()}

    def _auc(self, after: Sets, twin: Sets, name: str) -> dict[str, Any]:
        """Min-K AUC of forget rows over those of another set, under both models, with a 95 % bootstrap interval of the difference."""
        sides = [np.array([sets[side]["min_k"]["rows"] for sets in (after, twin)], float) for side in ("forget", name)]
        found = auc(*sides)
        groups = [self.probes[side].groups for side in ("forget", name)]
        return {"auc": found.tolist(), "difference": bootstrap_difference(*sides, *groups)}

    def _perplexity(self, answers: Sequence[str]) -> float:
        """Of answers to the forget set, under the twin."""
        return perplexity(self.twin_model, self.bed.tokenizer, self.probes["forget"], answers)

    def _existing(self, answers: Sequence[str]) -> float:
        """Share of the words of the answers that exist."""
        shares = [share for answer in answers if (share := nonwords(answer, self.lexicon)) is not None]
        return 1 - float(np.mean(shares)) if shares else math.nan

    def _refused(self, answer: str) -> bool:
        """Whether an answer has four of five words of a refusal, in their order, and few others."""
        said = len(words(answer))
        return any(
            said <= max(LONGEST_REFUSAL, 1.5 * len(words(refusal))) and (rouge_l(refusal, answer) or 0) >= 0.8
            for refusal in (*REFUSALS, self.bed.kind.refusal)
        )

    def _shown(self, answers: Mapping[str, list[str]]) -> list[dict[str, str]]:
        """Evenly spaced."""
        rows, tokenizer = self.probes["forget"].rows, self.bed.tokenizer
        special = special_ids(tokenizer)
        chosen = [i * len(rows) // SHOWN for i in range(SHOWN)] if len(rows) > SHOWN else range(len(rows))
        return [
            {"question": text(tokenizer, split(rows[i], special)[0]), **{view: found[i] for view, found in answers.items()}} for i in chosen
        ]


METRICS = {
    "forget": ("probability", "extraction_strength", "rouge_l", "degenerate"),
    "retain": ("probability", "rouge_l"),
    "forget" + ASKED: ("probability", "extraction_strength", "rouge_l", "degenerate"),
    "retain" + ASKED: ("probability", "rouge_l"),
}


def bootstrap_difference(members: np.ndarray, others: np.ndarray, member_groups: Sequence[int], other_groups: Sequence[int]) -> list[float]:
    """95 % interval of AUC[0] - AUC[1], for (2, n) and (2, m) numbers of the same rows under two models; rows are drawn by their groups."""
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(DRAWS):
        drawn = auc(members[:, _drawn(rng, members.shape[1], member_groups)], others[:, _drawn(rng, others.shape[1], other_groups)])
        differences.append(drawn[0] - drawn[1])
    return [float(end) for end in np.quantile(differences, [0.025, 0.975])]


def _drawn(rng: np.random.Generator, rows: int, groups: Sequence[int]) -> np.ndarray:
    """Numbers of rows: those of as many groups, drawn with replacement, as there are."""
    ids = np.asarray(groups if len(groups) else range(rows))
    members = [np.flatnonzero(ids == one) for one in np.unique(ids)]
    return np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])


def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probe: Probe, answers: Sequence[str]) -> float:
    """Of the answers, each after its row's prompt, under a model: exp of the mean loss over all their tokens. Empty answers have none."""
    special = special_ids(tokenizer)
    rows = [made for row, answer in zip(probe.rows, answers, strict=True) if (made := _answered(row, answer, tokenizer, special))]
    logps = [found.logps for found in score(model, rows, tokenizer, batch_size=BATCH)]
    return float(np.exp(-np.concatenate(logps).mean())) if logps else math.nan


def _answered(row: Row, answer: str, tokenizer: PreTrainedTokenizerBase, special: set[int]) -> Row | None:
    """A row with another answer, which begins with the white space that its own begins with."""
    prompt, own = split(row, special)
    said = str(tokenizer.decode(own))
    space = said[: len(said) - len(said.lstrip())]
    tokens = tokenizer(space + answer, add_special_tokens=False)["input_ids"] if answer else []
    return {"input_ids": [*prompt, *tokens], "labels": [-100] * len(prompt) + tokens} if tokens else None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value
