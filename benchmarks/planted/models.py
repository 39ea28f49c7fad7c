"""Tiny Llamas trained on a kind's rows: one that memorized all, one that never saw the forget set, and twins of that one."""

import hashlib
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from peft_unlearn.data import collate_rows
from peft_unlearn.data.rows import Row
from peft_unlearn.data.variants import REWORDED, Probe, probe
from planted.kinds import SETS, Kind

SPECIAL = ("<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")


@dataclass(frozen=True)
class Recipe:
    """How every model of every kind is built and trained: half a minute each on one core."""

    hidden_size: int = 128
    intermediate_size: int = 320
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    initializer_range: float = 0.04
    context: int = 192
    vocabulary: int = 1536
    learning_rate: float = 3e-3
    batch_size: int = 16
    decay_epochs: int = 40
    max_epochs: int = 50
    goal: float = 0.015  # mean cross-entropy of an epoch, in nats a token


class Bed:
    """A kind with its tokenizer, its tokenized sets and its models, which are trained when they are first asked for."""

    def __init__(self, kind: Kind, cache: Path, recipe: Recipe = Recipe()) -> None:
        self.kind, self.recipe = kind, recipe
        inputs = json.dumps([asdict(kind), asdict(recipe)], sort_keys=True)
        self.folder = cache / f"{kind.name}-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}"
        self.tokenizer = self._tokenizer()
        self.sets = {part: self._probe(part) for part in SETS}

    def model(self, name: str) -> LlamaForCausalLM:
        """The model "before" memorized the retain and the forget set; "never seen" and "twin 1", "twin 2", ... the retain set alone."""
        folder = self.folder / name.replace(" ", "_")
        if not (folder / "training.json").exists():
            sets = ("retain", "forget") if name == "before" else ("retain",)
            seed = {"before": 1000, "never seen": 1001}.get(name) or int(name.split()[1])
            wordings = [wording for part in sets for wording in _wordings(self.sets[part])]
            trained, training = train(wordings, self.tokenizer, self.recipe, seed)
            trained.save_pretrained(folder)
            (folder / "training.json").write_text(json.dumps(training) + "\n")
            print(f"trained {self.kind.name}, {name}: {training}", flush=True)
        loaded: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder).eval().requires_grad_(False)
        return loaded

    def _probe(self, part: str) -> Probe:
        """As `peft-unlearn evaluate` reads a set."""
        rows = Dataset.from_list(self.kind.rows[part])
        return probe(rows, self.tokenizer, self.recipe.context, name=part, reword=part in REWORDED)

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        if not self.folder.exists():
            train_tokenizer(self.kind, self.recipe).save_pretrained(self.folder)
        return PreTrainedTokenizerFast.from_pretrained(self.folder)


def train_tokenizer(kind: Kind, recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE of all texts of the kind; each digit is a token, for a number that is one token has no parts to know."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
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
) -> tuple[LlamaForCausalLM, dict[str, float]]:
    """Memorize rows, each in one of its wordings an epoch; and how that went. One thread: the same sums on every machine."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng, start = random.Random(seed), time.process_time()
    model = _llama(tokenizer, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(recipe, math.ceil(len(wordings) / recipe.batch_size)))
    loss, epochs = math.inf, 0
    while loss > recipe.goal and epochs < recipe.max_epochs:
        losses = []
        for batch in _batches([rng.choice(several) for several in wordings], rng, recipe.batch_size, int(tokenizer.pad_token_id)):
            step_loss = _loss(model, batch)
            optimizer.zero_grad()
            step_loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(step_loss.item())
        loss, epochs = sum(losses) / len(losses), epochs + 1
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


def _llama(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64 * math.ceil(len(tokenizer) / 64),
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.intermediate_size,
            num_hidden_layers=recipe.num_hidden_layers,
            num_attention_heads=recipe.num_attention_heads,
            max_position_embeddings=recipe.context,
            initializer_range=recipe.initializer_range,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _batches(rows: list[Row], rng: random.Random, size: int, pad_token_id: int) -> list[dict[str, Tensor]]:
    """One epoch in random order, rows of like length together."""
    order = sorted(rng.sample(rows, len(rows)), key=lambda row: len(row["input_ids"]))
    batches = [collate_rows(order[start : start + size], pad_token_id) for start in range(0, len(order), size)]
    return rng.sample(batches, len(batches))


def _loss(model: LlamaForCausalLM, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy over the answers' tokens."""
    hidden = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).last_hidden_state[:, :-1]
    targets = batch["labels"][:, 1:]
    answers = targets != -100
    return nn.functional.cross_entropy(model.lm_head(hidden[answers]), targets[answers])
