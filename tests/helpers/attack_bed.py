"""A tiny model with an adapter to attack, and its context; nothing in it is trained, so every number is compared with a plain computation."""

from collections.abc import Mapping
from functools import cache

import torch
import word_rows
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_llama

from peft_unlearn import data
from peft_unlearn.attacks.context import Context
from peft_unlearn.data.variants import Probe
from peft_unlearn.metrics.suite import evaluate
from peft_unlearn.model import adapters

TOKENIZER = word_rows.tokenizer()


@cache
def probe(seed: int, rows: int = 6) -> Probe:
    """Rows that the bare model says by heart, so that much comes back wherever the adapter wanes; each in one or two other wordings."""
    base, generator = tiny_llama(), torch.Generator().manual_seed(seed)
    found = []
    for i in range(rows):
        prompt = [1, *torch.randint(3, 64, (3 + i % 3,), generator=generator).tolist()]
        said = list(prompt)
        for _ in range(5 + i):
            with torch.no_grad():
                said.append(int(base(torch.tensor([said])).logits[0, -1].argmax()))
        found.append(word_rows.row(prompt, [*said[len(prompt) :], word_rows.END]))
    others = [[word_rows.row([1, 5 + i, 9, 40 + turn], answer(row)) for turn in range(1 + i % 2)] for i, row in enumerate(found)]
    return Probe(Dataset.from_list(found), {"paraphrased_question": others})


def answer(row: dict) -> list[int]:
    return [label for label in row["labels"] if label != -100]


def adapted(base=None, *, seed: int = 1, size: float = 0.35, name: str = adapters.STUDENT, **settings):
    """A base with a random adapter that changes what it says."""
    base = base or tiny_llama()
    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False, **settings})
    model = get_peft_model(base, config, adapter_name=name)
    for parameter in adapters.adapter_parameters(model, name):
        parameter.data *= size
    return model.eval()


class Later(Mapping):
    """The numbers of each set, computed when an attack first reads them: most do not."""

    def __init__(self, names, compute):
        self._names, self._compute = tuple(names), cache(compute)

    def __getitem__(self, name):
        if name not in self._names:
            raise KeyError(name)
        return self._compute(name)

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)


def context(model, view: str = "after", probes=None, **changes) -> Context:
    probes = probes or {"forget": probe(3), "retain": probe(4), "holdout": probe(5)}

    def now(name):
        return dict(evaluate(model, TOKENIZER, probes[name].rows, variants=probes[name].variants, batch_size=4, lens=False))

    def before(name):
        with adapters.view(model, "reference"):
            return now(name)

    views = {view: Later(probes, now)}
    if view == "after" and hasattr(model, "peft_config"):
        views["before"] = Later(probes, before)
    return Context(**{"model": model, "tokenizer": TOKENIZER, "probes": probes, "plain": views, "view": view, "batch_size": 4, **changes})


def by_name(shown) -> dict:
    """What an attack shows, by its form and metric."""
    found = {(entry["what"], entry["metric"]): entry for entry in shown}
    assert len(found) == len(shown)
    return found


def strengths(model, rows) -> list[float | None]:
    """Extraction strength of each row from the definition: a row alone, its dense logits, no padding."""
    found = []
    for row in rows:
        right = [int(logits.argmax() == target) for logits, target in word_rows.plain(model, row)]
        ends = [label for label in row["labels"][1:] if label != -100]
        right = right[: len(right) - (bool(ends) and ends[-1] == word_rows.END)]
        k = max((i + 1 for i, hit in enumerate(right) if not hit), default=0)
        found.append(1 - k / len(right) if right else None)
    return found


def text_rows(tokenizer, *, chat: bool = False) -> list[dict]:
    """Questions and answers as text, in a script that the tokenizer's merges do not know as well."""
    pairs = [("Where does Ann live?", "Ann lives in Oslo."), ("Где Bob?", "Lima, Rome."), ("Cleo?", "Rome.")]
    columns = [{"question": question, "answer": answer} for question, answer in pairs]
    if not chat:
        assert not tokenizer.chat_template
    return data.tokenize(Dataset.from_list(columns), tokenizer, 128, name="forget").rows.to_list()


def text_context(tokenizer, *, chat: bool = False, tie: bool = False, view: str = "after") -> Context:
    """A random model with an adapter that is asked in text, with sets to compare with."""
    base = tiny_llama(vocab=64 * (len(tokenizer) // 64 + 1), tie=tie)
    base.config.max_position_embeddings = 256
    rows = Dataset.from_list(text_rows(tokenizer, chat=chat))
    probes = {name: Probe(rows, {}) for name in ("forget", "retain", "two_hop")}
    model = adapted(base) if view == "after" else base
    numbers = Later(probes, lambda _: dict(evaluate(model, tokenizer, rows, batch_size=2)))
    plain = {"before": numbers, view: numbers}
    return Context(model=model, tokenizer=tokenizer, probes=probes, plain=plain, view=view, batch_size=2)
