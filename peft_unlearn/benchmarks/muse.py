"""MUSE (arXiv 2407.06460): news articles or books to forget, as text and as questions about it.

| file | columns | what is measured, in which set |
| --- | --- | --- |
| verbmem/forget | prompt, gt | verbmem of forget: the continuation of a passage |
| knowmem/forget_qa, knowmem/retain_qa | question, answer | knowmem of forget and retain: short answers after the few examples of ..._icl |
| privleak/forget, retain, holdout | text | the teacher-forced metrics of each set, and the membership of forget among holdout: priv_leak |

On the Hub: muse-bench/MUSE-News and muse-bench/MUSE-Books, config/split as above.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.benchmarks import openunlearning as peer
from peft_unlearn.benchmarks.files import Check, Source, spread, text
from peft_unlearn.benchmarks.measuring import How, Sets, Views, compare_membership, measure
from peft_unlearn.data import tokenize
from peft_unlearn.data.variants import Probe, probe
from peft_unlearn.metrics.knowmem import TOKENS, knowmem
from peft_unlearn.metrics.results import Evaluation, summarize
from peft_unlearn.metrics.verbmem import CONTINUATION, verbmem
from peft_unlearn.model.generation import context_length
from peft_unlearn.util.errors import UserError

SETS = ("forget", "retain", "holdout")
SPLITS = ("news", "books")
PASSAGE: Mapping[str, Check] = {"prompt": text, "gt": text}
QUESTION: Mapping[str, Check] = {"question": text, "answer": text}
TEXT: Mapping[str, Check] = {"text": text}


class Muse:
    """News or books, read and checked; `prepare` tokenizes the texts.

    Raises:
        UserError: an unknown split, a missing file, or a row without an answer.
    """

    def __init__(self, source: Source, split: str | None, rows: int) -> None:
        self.split = split or "news"
        if self.split not in SPLITS:
            raise UserError(f"split: {split!r} is not one of {', '.join(SPLITS)}.")
        self.texts = {name: spread(source.read("privleak", name, TEXT), rows) for name in SETS}
        self.passages = spread(source.read("verbmem", "forget", PASSAGE), rows)
        self.questions: dict[str, tuple[Dataset, Dataset]] = {
            name: (spread(source.read("knowmem", f"{name}_qa", QUESTION), rows), source.read("knowmem", f"{name}_qa_icl", QUESTION))
            for name in ("forget", "retain")
        }
        self.probes: dict[str, Probe] = {}

    def prepare(self, tokenizer: PreTrainedTokenizerBase, max_length: int, template: Mapping[str, Any]) -> None:
        self.probes = {name: probe(found, tokenizer, max_length, name=f"data, privleak/{name}") for name, found in self.texts.items()}
        joined = [
            {"prompt": row["prompt"], "completion": row["gt"] if (row["prompt"][-1] + row["gt"][0]).strip() else f" {row['gt']}"}
            for row in self.passages
        ]
        self.recited = tokenize(Dataset.from_list(joined), tokenizer, max_length, name="data, verbmem/forget").rows

    def evaluate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, how: How, label: str) -> Sets:
        """Every set under the active adapters."""
        if how.as_openunlearning:
            return self._as_openunlearning(model, tokenizer, how, label)
        sets = {
            name: measure(model, tokenizer, found, how, label=f"{label}, {name}", forget=name == "forget", generate=False)
            for name, found in self.probes.items()
        }
        sets["forget"]["verbmem"] = summarize(verbmem(model, tokenizer, self.recited, batch_size=how.batch_size))
        for name, (questions, examples) in self.questions.items():
            sets[name]["knowmem"] = summarize(knowmem(model, tokenizer, questions, examples, batch_size=how.batch_size))
        return sets

    def compare(self, views: Views, how: How) -> None:
        """Add membership of each view, and how far it is from the never-seen model's."""
        never_seen = views["never_seen"]["forget"] if "never_seen" in views else None
        for view in sorted(views, key="never_seen".__ne__):  # first, as PrivLeak of the others needs its AUC
            compare_membership(views[view]["forget"], views[view]["holdout"], never_seen, how)

    def _as_openunlearning(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, how: How, label: str) -> Sets:
        """The same numbers of OpenUnlearning's rows: of the forget set, what is memorized is that of the passages."""
        context, size = context_length(model), how.batch_size
        answering = partial(peer.rouge, model, tokenizer, measure="fmeasure", batch_size=size)
        passages = [(row["prompt"], row["gt"]) for row in self.passages]
        sets = {}
        for name, texts in self.texts.items():
            rows = peer.completions(tokenizer, [("", text) for text in texts["text"]], context)
            sets[name] = Evaluation(peer.forced(model, tokenizer, rows, size, f"{label}, {name}: scoring")[0], [])
        recited, _ = peer.forced(model, tokenizer, peer.completions(tokenizer, passages, context), size, f"{label}, passages: scoring")
        for metric in ("exact_memorization", "extraction_strength"):
            sets["forget"][metric] = summarize(recited[metric])
        asked = peer.continued(tokenizer, passages, context)
        sets["forget"]["verbmem"] = summarize(answering(asked, tokens=CONTINUATION, progress="reciting")[0])
        for name, (questions, examples) in self.questions.items():
            asked = peer.few_shot(tokenizer, questions, examples, context)
            values, _ = answering(asked, tokens=TOKENS, stop_strings=peer.STOP_STRINGS, progress="answering")
            sets[name]["knowmem"] = summarize(values)
        return sets
