"""Tiny models, Llamas mostly, trained on a kind's rows: one that memorized all, one that never saw the forget set, and twins of that one."""

import hashlib
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from beds.architectures import built
from beds.kinds import Kind
from beds.source import SETS, Row
from peft_unlearn.data.variants import REWORDED, Probe, probe
from peft_unlearn.demo.model import Architecture, compute_as_saved, compute_in_nf4, epoch_batches, forward

SPECIAL = ("<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")


@dataclass(frozen=True)
class Recipe(Architecture):
    """How the models of a kind are built and trained: .76M parameters, 10 to 60 seconds each on one core."""

    intermediate_size: int = 320
    context: int = 192
    vocabulary: int = 1536
    learning_rate: float = 3e-3
    batch_size: int = 16
    decay_epochs: int = 40
    max_epochs: int = 50
    goal: float = 0.015  # mean cross-entropy of an epoch, in nats a token
    full_precision_epochs: int | None = None  # after these the forward pass is that of NF4; None: it never is
    architecture: str | None = None  # one of `architectures.OTHERS`; None: a Llama


SIZES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4},  # .31M parameters
    "medium": {},
    "large": {"intermediate_size": 384, "num_hidden_layers": 4},  # 1.05M
}
# The loss of an epoch after which rows have a probability of about .6, as after the few epochs of a real fine-tune.
LIGHT = 0.65


def recipe(*, light: bool = False, size: str = "medium", nf4: bool = False, architecture: str | None = None) -> Recipe:
    """How models are trained that memorized lightly, are of another of `SIZES` or architecture, or whose memory survives NF4 (Llamas alone)."""
    found = replace(Recipe(**SIZES[size]), architecture=architecture)
    if light:
        found = replace(found, goal=LIGHT)
    return replace(found, full_precision_epochs=4 if light else 20) if nf4 else found


class Bed:
    """A kind with its tokenizer, its tokenized sets and its models, which are trained when they are first asked for."""

    def __init__(self, kind: Kind, cache: Path, recipe: Recipe = Recipe()) -> None:
        self.kind, self.recipe = kind, recipe
        of_kind = asdict(kind) | {"rows": {part: kind.rows[part] for part in SETS}}
        of_recipe = {name: value for name, value in asdict(recipe).items() if value is not None}
        inputs = json.dumps([of_kind, of_recipe], sort_keys=True)
        self.folder = cache / f"{kind.name}-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}"
        self.tokenizer = self._tokenizer()
        self.sets = {part: self._probe(part, kind.rows[part]) for part in SETS}

    @cached_property
    def of_run(self) -> dict[str, Probe]:
        """The rows that a run is given, and "fresh" ones."""
        return {part: self._probe(part, rows) for part, rows in self.kind.of_run.items()}

    def model(self, name: str) -> PreTrainedModel:
        """The model "before" memorized the retain and the forget set; "never seen" and "twin 1", "twin 2", ... the retain set alone."""
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self.path(name)).eval().requires_grad_(False)
        return loaded

    def path(self, name: str) -> Path:
        """The folder of that model, its tokenizer beside it."""
        folder = self.folder / name.replace(" ", "_")
        if not (folder / "training.json").exists():
            sets = ("retain", "forget") if name == "before" else ("retain",)
            seed = {"before": 1000, "never seen": 1001}.get(name) or int(name.split()[1])
            wordings = [wording for part in sets for wording in _wordings(self.sets[part])]
            trained, training = train(wordings, self.tokenizer, self.recipe, seed)
            trained.save_pretrained(folder)
            (folder / "training.json").write_text(json.dumps(training) + "\n")
            print(f"trained {self.kind.name}, {name}: {training}", flush=True)
        if not (folder / "tokenizer_config.json").exists():
            self.tokenizer.save_pretrained(folder)
        return folder

    def _probe(self, part: str, rows: list[Row]) -> Probe:
        """As `peft-unlearn evaluate` reads a set."""
        return probe(Dataset.from_list(rows), self.tokenizer, self.recipe.context, name=part, reword=part in REWORDED)

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        if not self.folder.exists():
            train_tokenizer(self.kind, self.recipe).save_pretrained(self.folder)
        return PreTrainedTokenizerFast.from_pretrained(self.folder)


def train_tokenizer(kind: Kind, recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE of all texts of the kind; each digit is a token, for a number that is one token has no parts to know.

    Nor has a sentence without spaces that is one token: of Japanese a token is a Chinese character or at most two kana.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"\p{Han}|[\p{Hiragana}\p{Katakana}ー]{1,2}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for part in SETS for row in kind.rows[part] for text in _texts(row)]
    bpe.train_from_iterator(
        [f"{before}{text}" for text in (*texts, kind.refusal, "Question", "Answer") for before in ("", " ", "\n")], trainer
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", SPECIAL.index("<s>"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>" if kind.chat_template is None else "<|end|>",
        extra_special_tokens=[token for token in SPECIAL if token.startswith("<|")],
        chat_template=kind.chat_template,
    )


def train(
    wordings: list[list[Row]], tokenizer: PreTrainedTokenizerBase, recipe: Recipe, seed: int
) -> tuple[PreTrainedModel, dict[str, float]]:
    """Memorize rows, each in one of its wordings an epoch; and how that went. One thread: the same sums on every machine."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng, start = random.Random(seed), time.process_time()
    model = built(recipe.architecture, tokenizer, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(recipe, math.ceil(len(wordings) / recipe.batch_size)))
    loss, epochs = math.inf, 0
    while (loss > recipe.goal or epochs < (recipe.full_precision_epochs or 0)) and epochs < recipe.max_epochs:
        if epochs == recipe.full_precision_epochs:
            compute_in_nf4(model)
        losses = []
        for batch in epoch_batches([rng.choice(several) for several in wordings], rng, recipe.batch_size, int(tokenizer.pad_token_id)):
            step_loss, _ = forward(model, batch)
            optimizer.zero_grad()
            step_loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(step_loss.item())
        loss, epochs = sum(losses) / len(losses), epochs + 1
    if recipe.full_precision_epochs is not None:
        compute_as_saved(model)
    return model, {"epochs": epochs, "loss": round(loss, 4), "cpu_seconds": round(time.process_time() - start, 1)}


def _schedule(recipe: Recipe, steps: int) -> Callable[[int], float]:
    """Warm-up, then linear down to a twentieth."""
    return lambda step: min((step + 1) / 30, max(0.05, 1 - step / (recipe.decay_epochs * steps)))


def _texts(row: dict[str, Any]) -> list[str]:
    """Every text of a row, its messages' contents among them."""
    values = [value for key, value in row.items() if key != "group"]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [item["content"] if isinstance(item, dict) else item for item in flat if isinstance(item, str | dict)]


def _wordings(sets: Probe) -> list[list[Row]]:
    """Each row with the same question in other words."""
    asked = sets.variants.get("paraphrased_question", [[] for _ in sets.rows])
    return [[row, *others] for row, others in zip(sets.rows, asked, strict=True)]
