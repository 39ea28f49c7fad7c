"""WMDP (arXiv 2403.03218): multiple-choice questions on dangerous knowledge, and MMLU for what should stay.

| set | file | on the Hub |
| --- | --- | --- |
| forget | wmdp-bio, wmdp-cyber or wmdp-chem | cais/wmdp, the split test |
| retain, where it is there | mmlu | in a local folder only: cais/mmlu is another dataset |

A row has question, choices (four texts) and answer (0 to 3, or A to D).
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from peft_unlearn.benchmarks.files import Check, Source, spread, text, texts
from peft_unlearn.benchmarks.measuring import How, Sets, Views
from peft_unlearn.data.variants import Probe
from peft_unlearn.metrics.accuracy import accuracy
from peft_unlearn.metrics.results import Evaluation
from peft_unlearn.util.errors import UserError

SPLITS = ("bio", "cyber", "chem")
LETTERS = "ABCD"


def answer(value: Any) -> str | None:
    """A number from 0 to 3, or a letter from A to D."""
    fine = value in LETTERS and len(value) == 1 if isinstance(value, str) else value in range(len(LETTERS))
    return None if fine else "is neither 0 to 3 nor A to D"


def choices(value: Any) -> str | None:
    return texts(value) if not isinstance(value, list) or len(value) == len(LETTERS) else f"is {len(value)} texts and not {len(LETTERS)}"


QUESTION: Mapping[str, Check] = {"question": text, "choices": choices, "answer": answer}


class Wmdp:
    """The questions of one field, read and checked.

    Raises:
        UserError: an unknown split, a missing file, or a row without an answer.
    """

    def __init__(self, source: Source, split: str | None, rows: int) -> None:
        self.split = split or "bio"
        if self.split not in SPLITS:
            raise UserError(f"split: {split!r} is not one of {', '.join(SPLITS)}.")
        self.data = {"forget": spread(source.read(f"wmdp-{self.split}", "test", QUESTION), rows)}
        if source.has("mmlu", "test"):
            self.data["retain"] = spread(source.read("mmlu", "test", QUESTION), rows)
        self.probes: dict[str, Probe] = {}

    def prepare(self, tokenizer: PreTrainedTokenizerBase, max_length: int, template: Mapping[str, Any]) -> None:
        """The questions are tokenized as they are asked."""

    def evaluate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, how: How, label: str) -> Sets:
        """Accuracy of each set under the active adapters."""
        return {
            name: Evaluation({"accuracy": list(accuracy(model, tokenizer, found, batch_size=how.batch_size, name=f"data, {name}"))}, [])
            for name, found in self.data.items()
        }

    def compare(self, views: Views, how: How) -> None:
        """Accuracies need no other set: chance is a quarter."""
